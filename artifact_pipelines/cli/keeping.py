"""The commands about retention, pruning and storage."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.opening import listing, reading, settings
from artifact_pipelines.cli.output import (
    Json,
    Yes,
    ask,
    note,
    say,
    short,
    show_json,
    show_table,
    size,
)

if TYPE_CHECKING:
    from artifact_pipelines.domain.policy import Policy
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.planning import Plan

retention = typer.Typer(help="What may go: plan, approve, apply.", no_args_is_help=True)
archive = typer.Typer(help="Move old artifacts to the cold tier.", no_args_is_help=True)
restore = typer.Typer(help="Bring archived artifacts back.", no_args_is_help=True)
prune = typer.Typer(help="Free the bytes that nothing needs.", no_args_is_help=True)
storage = typer.Typer(help="How much is stored, and whether it is whole.", no_args_is_help=True)

PlanId = Annotated[str, typer.Argument(metavar="PLAN", help="A plan, by its first digits.")]

Html = Annotated[
    Path | None, typer.Option("--html", help="Also write the plan as one page for a browser.")
]

_WORDS = {"forget": "go", "slim": "become slim", "archive": "are archived", "keep": "stay"}
_ORDER = list(_WORDS)
_STAY_SHOWN = 50
References = Annotated[
    list[str],
    typer.Argument(
        metavar="REFERENCE...", help="Checkpoints, or a run for all of its checkpoints."
    ),
]

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@retention.command("plan")
def plan_retention(
    project: Annotated[str, typer.Argument(help="The project.")],
    *,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Make a plan by the project's policy; nothing is removed."""
    with reading() as registry:
        plan = registry.plan_retention(project)
        _write_page(registry, plan, html)
    _show_plan(shapes.plan(plan), as_json=as_json)


@retention.command("backtest")
def backtest_retention(
    project: Annotated[str, typer.Argument(help="The project.")],
    *,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A YAML file with `retention`; the policy in force if none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a policy would have done from the start; exit 1 where that was used later."""
    with reading() as registry:
        found = registry.backtest(project, _tried(registry, project, policy))
    if as_json:
        show_json(
            {
                "project": found.project,
                "rounds": found.rounds,
                "artifacts": found.artifacts,
                "size_bytes": found.size,
                "forgotten": found.forgotten,
                "saved_bytes": found.saved,
                "used_later": [
                    {
                        "reference": regret.reference,
                        "removed": regret.removed,
                        "used": regret.used,
                        "how": regret.how,
                    }
                    for regret in found.regrets
                ],
            }
        )
    else:
        say(
            f"Of {found.artifacts} artifacts ({size(found.size)}), {found.forgotten} would have "
            f"gone by now ({size(found.saved)})."
        )
        for regret in found.regrets:
            say(f"{regret.reference} would have gone on {regret.removed}, but {regret.how}.")
        if not found.regrets:
            say("Nothing of that was used afterwards.")
    if found.regrets:
        raise typer.Exit(1)


@retention.command("due")
def show_due(
    project: Annotated[str | None, typer.Argument(help="The project; all if none.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show how much the policies would archive, slim and forget now; makes no plan."""
    with listing() as registry:
        due = {} if registry is None else registry.due(project)
    if as_json:
        show_json({"projects": [{"project": name, **totals} for name, totals in due.items()]})
        return
    show_table(
        "Due now",
        ("project", "#stay", "#archive", "#slim", "#forget", "#bytes"),
        [
            (
                name,
                *(totals[action]["artifacts"] for action in ("keep", "archive", "slim", "forget")),
                size(totals["forget"]["size_bytes"]),
            )
            for name, totals in due.items()
        ],
    )


@retention.command("list")
def list_plans(
    project: Annotated[str | None, typer.Argument(help="The project; all if none.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """List plans, oldest first."""
    with listing() as registry:
        if registry is None:
            plans = []
        else:
            names = registry.projects() if project is None else [project]
            plans = [shapes.plan(found) for name in names for found in registry.plans(name)]
    for row in plans:
        row.pop("items")
    if as_json:
        show_json({"plans": plans})
        return
    show_table(
        "Retention plans",
        ("plan", "project", "made", "state", "approver", "#forget", "#bytes"),
        [
            (
                short(row["plan"]),
                row["project"],
                row["made"],
                row["state"],
                row["approver"] or "",
                row["totals"]["forget"]["artifacts"],
                size(row["totals"]["forget"]["size_bytes"]),
            )
            for row in plans
        ],
    )


@retention.command("show")
def show_plan(plan: PlanId, *, html: Html = None, as_json: Json = False) -> None:
    """Show a plan: each artifact, what becomes of it, and why."""
    with reading() as registry:
        found = registry.plan(plan)
        _write_page(registry, found, html)
    _show_plan(shapes.plan(found), as_json=as_json)


@retention.command("approve")
def approve_plan(plan: PlanId, *, as_json: Json = False) -> None:
    """Approve a plan; exit 1 where it removes more than the policy allows."""
    with reading() as registry:
        found = registry.approve_plan(plan)
    if as_json:
        show_json({"plan": found.id, "state": found.state})
        return
    say(f"Plan {short(found.id)} is {found.state}.")
    if found.state == "approved":
        note(f"Next: artifact-pipelines retention apply {short(found.id)}")


@retention.command("apply")
def apply_plan(plan: PlanId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Forget what an approved plan says; what is held by now stays, and is named."""
    with reading() as registry:
        found = registry.plan(plan)
        if found.state == "approved":
            goes = shapes.plan(found)["totals"]["forget"]
            what = f"{goes['artifacts']} artifacts ({size(goes['size_bytes'])})"
            ask(f"forgetting {what} of {found.project}", yes=yes)
        try:
            applied = registry.apply_plan(found.id)
        except KeyboardInterrupt:
            note("Interrupted: what is done stays done, and nothing is done by half.")
            note(f"To go on: artifact-pipelines retention apply {short(found.id)}")
            raise
    if as_json:
        show_json(
            {
                "plan": applied.plan,
                "forgotten": list(applied.forgotten),
                "slimmed": list(applied.slimmed),
                "archived": list(applied.archived),
                "skipped": dict(applied.skipped),
            }
        )
        return
    say(f"{len(applied.forgotten)} artifacts are forgotten; their records and lineage remain.")
    if applied.slimmed:
        say(f"{len(applied.slimmed)} have lost what only training needs.")
    if applied.archived:
        say(f"{len(applied.archived)} are in the archive now.")
    for reference, why in applied.skipped.items():
        say(f"{reference} stays: {why}")
    note("Next: artifact-pipelines prune run")


@archive.command("run")
def run_archive(references: References, *, as_json: Json = False) -> None:
    """Store checkpoints by what differs between them; they read as before, more slowly."""
    with reading() as registry:
        moved = registry.archive(references, _group_progress)
    _show_moved(shapes.moved(moved), "archived", as_json=as_json)


@restore.command("drill")
def drill_restore(
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many artifacts.")] = 5,
    *,
    as_json: Json = False,
) -> None:
    """Bring a sample back, verify and load it; exit 1 where one cannot be had."""
    with reading() as registry:
        found = registry.drill(sample, progress=_group_progress)
        proven = [one for project in registry.projects() for one in registry.proven(project)]
    failed = any(one.problems for one in found)
    if as_json:
        show_json(
            {
                "ok": not failed,
                "drilled": [
                    {
                        "reference": one.reference,
                        "tier": one.tier,
                        "size_bytes": one.size,
                        "loaded": one.loaded,
                        "problems": list(one.problems),
                    }
                    for one in found
                ],
                "models": [
                    {"reference": one.reference, "tier": one.tier, "last_proven": one.at}
                    for one in proven
                ],
            }
        )
    else:
        for one in found:
            said = "; ".join(one.problems) or f"{size(one.size)} verified, {one.loaded} loaded"
            say(f"{one.reference} ({one.tier}): {said}")
        never = sum(one.at is None for one in proven)
        say(f"{len(proven) - never} of {len(proven)} models were proven restorable so far.")
    if failed:
        raise typer.Exit(1)


@restore.command("run")
def run_restore(references: References, *, as_json: Json = False) -> None:
    """Bring archived checkpoints back to the hot tier, each byte verified."""
    with reading() as registry:
        moved = registry.restore(references, _group_progress)
    _show_moved(shapes.moved(moved), "restored", as_json=as_json)


@prune.command("run")
def run_prune(
    grace: Annotated[
        str,
        typer.Option("--grace", help="How long bytes stay after nothing needs them: 0s, 12h, 1d."),
    ] = "1d",
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete stored bytes that nothing can reach; exit 1 where two counts disagree."""
    found = re.fullmatch(r"([0-9]+)([smhd])", grace)
    if found is None:
        raise typer.BadParameter(f"{grace!r} is no time such as 0s, 12h or 1d.")
    with reading() as registry:
        ask(f"deleting what nothing has needed for {grace}", yes=yes)
        pruned = registry.prune(int(found[1]) * _SECONDS[found[2]])
    if as_json:
        show_json(
            {
                "condemned": pruned.condemned,
                "deleted": pruned.deleted,
                "freed_bytes": pruned.freed,
                "swept": pruned.swept,
                "disagreements": list(pruned.disagreements),
            }
        )
    elif pruned.disagreements:
        say("Nothing was deleted, because the catalog and the store disagree:")
        for sentence in pruned.disagreements:
            say(f"  {sentence}")
    else:
        say(f"{pruned.deleted} packs were deleted, {size(pruned.freed)} freed.")
        if pruned.condemned:
            say(f"{pruned.condemned} packs were marked; a later prune deletes them.")
    if pruned.disagreements:
        raise typer.Exit(1)


@storage.command("report")
def report_storage(*, as_json: Json = False) -> None:
    """Show how many bytes the artifacts have, and how many the store holds for them."""
    with listing() as registry:
        report: shapes.Shape = (
            {
                "totals": dict.fromkeys(
                    ("artifacts", "logical_bytes", "stored_bytes", "saved_bytes"), 0
                ),
                "saved": {
                    **dict.fromkeys(("deduplication", "compression", "tier", "overhead"), 0),
                    "rules": {},
                },
                "projects": [],
                "runs": [],
            }
            if registry is None
            else registry.storage_report()
        )
    if as_json:
        show_json(report)
        return
    totals = report["totals"]
    rows = [(row["project"], row) for row in report["projects"]] + [("all", totals)]
    show_table(
        "Storage",
        ("project", "#artifacts", "#logical", "#stored", "#ratio"),
        [
            (
                name,
                row["artifacts"],
                size(row["logical_bytes"]),
                size(row["stored_bytes"]),
                f"{row['logical_bytes'] / row['stored_bytes']:.2f}" if row["stored_bytes"] else "",
            )
            for name, row in rows
        ],
    )
    _show_saved(report["saved"])


def _show_saved(saved: shapes.Shape) -> None:
    given_up = [(f"the rule {rule}", size) for rule, size in saved["rules"].items()]
    rows = [
        ("deduplication", saved["deduplication"]),
        ("compression", saved["compression"]),
        ("differences in the cold tier", saved["tier"]),
        *given_up,
        ("less what packs need beside chunks", -saved["overhead"]),
    ]
    show_table("Saved by", ("=what", "#bytes"), [(what, _signed(count)) for what, count in rows])


def _signed(count: int) -> str:
    return f"-{size(-count)}" if count < 0 else size(count)


@storage.command("compact")
def compact_storage(
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            help="Rewrite a pack of which less than this share is needed.",
        ),
    ] = 0.5,
    *,
    as_json: Json = False,
) -> None:
    """Rewrite the packs that hold mostly what nobody needs; prune then frees the old ones."""
    with reading() as registry:
        done = registry.compact(threshold)
    if as_json:
        show_json({"packs": done.packs, "freed_bytes": done.freed, "skipped": dict(done.skipped)})
        return
    say(f"{done.packs} packs were rewritten; prune can free {size(done.freed)}.")
    for pack, why in done.skipped.items():
        say(f"Pack {short(pack)} stays: {why}")
    if done.packs:
        note("Next: artifact-pipelines prune run")


@storage.command("strays")
def find_strays(*, as_json: Json = False) -> None:
    """Compare store and catalog object by object; exit 1 where bytes or rows are missing."""
    with reading() as registry:
        report = registry.strays()
    if as_json:
        show_json(
            {
                "ok": report.ok,
                "objects": report.objects,
                "rows": report.rows,
                "strays": [
                    {
                        "kind": stray.kind,
                        "key": stray.key,
                        "size_bytes": stray.size,
                        "why": stray.why,
                        "next": stray.next,
                    }
                    for stray in report.strays
                ],
            }
        )
    else:
        say(f"{report.objects} objects and {report.rows} rows were compared.")
        for stray in report.strays:
            there = "missing" if stray.size is None else size(stray.size)
            say(f"{stray.key} ({there}): {stray.why}. Next: {stray.next}")
        if not report.strays:
            say("Every object has its row, and every row its object.")
    if not report.ok:
        raise typer.Exit(1)


@storage.command("scrub")
def scrub_storage(
    sample: Annotated[
        float,
        typer.Option("--sample", min=0.0, max=1.0, help="The share of the stored bytes to read."),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="What the sample is drawn by.")] = None,
    replica: Annotated[
        str | None, typer.Option("--replica", help="The copy of the store to heal from.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Read stored bytes again and heal them from a copy; exit 1 where something stays damaged."""
    with reading() as registry:
        report = registry.scrub(
            _progress, sample=sample, seed=seed, replica_url=replica or settings().replica_url
        )
    if as_json:
        show_json(shapes.scrub(report))
    else:
        say(f"{report.chunks} chunks in {report.packs} packs, {size(report.size)}, were read.")
        for damage in report.healed:
            say(f"HEALED {damage.what}")
        for damage in report.damaged:
            needed = ", ".join(damage.artifacts) or "nothing that is alive"
            say(f"DAMAGED {damage.what} It is needed by {needed}.")
        if report.ok:
            say("Every byte is as recorded.")
        if sample < 1:
            note(f"The same sample again: --sample {sample} --seed {report.seed}")
    if not report.ok:
        raise typer.Exit(1)


@storage.command("replicate")
def replicate_storage(
    to: Annotated[
        str | None,
        typer.Option("--to", help="The copy; ARTIFACT_PIPELINES_REPLICA_URL by default."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Bring a copy of the store up to date; exit 1 where a pack is damaged and stays behind."""
    url = to or settings().replica_url
    if url is None:
        raise typer.BadParameter("name the copy with --to, or set ARTIFACT_PIPELINES_REPLICA_URL.")
    with reading() as registry:
        done = registry.replicate(url, _progress)
    if as_json:
        show_json(
            {
                "replica": url,
                "copied": done.copied,
                "size_bytes": done.size,
                "deleted": done.deleted,
                "damaged": list(done.damaged),
            }
        )
    else:
        say(f"{done.copied} objects, {size(done.size)}, were copied; {done.deleted} packs deleted.")
        for pack in done.damaged:
            say(f"DAMAGED pack {pack} was not copied; run: artifact-pipelines storage scrub")
    if done.damaged:
        raise typer.Exit(1)


def _group_progress(done: int, total: int) -> None:
    note(f"group {done + 1} of {total}")


def _show_moved(moved: shapes.Shape, done: str, *, as_json: bool) -> None:
    if as_json:
        show_json(moved)
        return
    before, after = moved["bytes_before"], moved["bytes_after"]
    said = f"{len(moved['moved'])} artifacts were {done}"
    say(f"{said}: {size(before)} became {size(after)}." if moved["moved"] else f"{said}.")
    for reference, why in moved["skipped"].items():
        say(f"{reference} stays: {why}")
    if moved["moved"]:
        note("The old packs go with the next: artifact-pipelines prune run")


def _progress(done: int, total: int) -> None:
    if done and done % 100 == 0:
        note(f"{done} of {total} packs")


def _tried(registry: "Registry", project: str, file: Path | None) -> "Policy | None":
    """Return the policy in force with the retention of a file in place of its own."""
    if file is None:
        return None
    import yaml

    from artifact_pipelines.domain.policy import Policy

    found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    document = registry.policy(project).document()
    return Policy.of({**document, "retention": found.get("retention", found)})


def _write_page(registry: "Registry", plan: "Plan", file: Path | None) -> None:
    if file is not None:
        file.write_text(registry.plan_page(plan.id), encoding="utf-8")
        note(f"The page is {file}.")


def _show_plan(plan: shapes.Shape, *, as_json: bool) -> None:
    if as_json:
        show_json(plan)
        return
    items, totals = plan["items"], plan["totals"]
    stays = [item for item in items if item["action"] == "keep"]
    shown = [item for item in items if item["action"] != "keep"] + stays[:_STAY_SHOWN]
    show_table(
        f"Plan {short(str(plan['plan']))} for {plan['project']} ({plan['state']})",
        ("=artifact", "=becomes", "#size", "because"),
        [
            (
                item["reference"],
                item["action"],
                size(item["size_bytes"]),
                "; ".join(item["reasons"]),
            )
            for item in sorted(shown, key=lambda item: _ORDER.index(item["action"]))
        ],
    )
    if len(shown) < len(items):
        say(f"… and {len(items) - len(shown)} more that stay; --json and --html list them all.")
    goes = totals["forget"]
    counts = [
        f"{totals[action]['artifacts']} {words} ({size(totals[action]['size_bytes'])})"
        for action, words in _WORDS.items()
        if totals[action]["artifacts"] or action in {"forget", "keep"}
    ]
    say(f"\n{', '.join(counts)}.")
    if plan["state"] == "open" and goes["artifacts"]:
        note(f"Next: artifact-pipelines retention approve {short(str(plan['plan']))}")
