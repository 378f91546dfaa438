"""The commands about models and their way through the stages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifact_pipelines.cli import shapes, training
from artifact_pipelines.cli.annotating import said_about, show_said
from artifact_pipelines.cli.opening import (
    declared_policy,
    listing,
    make_importable,
    projects,
    reading,
)
from artifact_pipelines.cli.output import (
    Json,
    Yes,
    ask,
    figures,
    moment,
    note,
    say,
    short,
    show_facts,
    show_json,
    show_table,
    size,
    utc,
)
from artifact_pipelines.errors import LedgerError, UnknownArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from artifact_pipelines.domain.verdict import Verdict
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.promoting import PolicySet
    from artifact_pipelines.registry.reading import Artifact

models = typer.Typer(help="Models, and what the stages serve.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="Such as digits/v3, digits@production, or a digest.")]
Stage = Annotated[str, typer.Option("--stage", help="The stage.")]
Pointer = Annotated[str, typer.Argument(help="Such as digits@production, or the project alone.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]


@models.command("list")
def list_models(project: training.Project = None, *, as_json: Json = False) -> None:
    """List models, with what the gates said and the stages that serve them."""
    rows: list[dict[str, Any]] = []
    with listing() as registry:
        for name in projects(registry, project):
            if registry is not None:
                stages = registry.stages(name)
                rows += [_row(registry, model, stages) for model in registry.models(name)]
    if as_json:
        show_json({"models": rows})
        return
    if not rows:
        say("There are no models yet.")
        note("Try: artifact-pipelines demo")
        return
    show_table(
        "Models",
        ("=model", "=gates", "stages", "=made from", "metrics", "=state"),
        [
            (
                row["reference"],
                _gates(row["gates"]),
                ", ".join(row["stages"]),
                row["checkpoint"],
                figures(row["metrics"], 1),
                _state(row),
            )
            for row in rows
        ],
    )


@models.command("show")
def show_model(reference: Model, *, as_json: Json = False) -> None:
    """Show a model: its gates, its stages and what stands in its way.

    Exits with 1 where a stage serves it and the signed log does not prove that.
    """
    with reading() as registry:
        model = _model(registry, reference)
        stages = registry.stages(model.project)
        row = _row(registry, model, stages)
        verdicts = registry.verdicts(model)
        policy = registry.policy(model.project)
        readiness: dict[str, shapes.Shape] = {
            stage: {
                "serving": stage in row["stages"],
                "rollback": _way_back(registry, model.project, stage),
                "reasons": list(registry.why_not(model.id, stage)),
                "requested": [
                    {"reason": wish.reason, "approved_by": list(wish.approved_by)}
                    for wish in registry.requests(model.project, stage)
                    if wish.state == "open" and wish.model.id == model.id
                ],
            }
            for stage in sorted(policy.promotion)
        }
        shape = (
            shapes.details(registry, model)
            | row
            | {
                "verdicts": [shapes.verdict(verdict) for verdict in verdicts],
                "readiness": readiness,
                "proof_verified": _proven(registry, model, row["stages"]),
            }
            | said_about(registry, model)
        )
    unproven = shape["proof_verified"] is False and not model.recalled
    if as_json:
        show_json(shape)
        raise typer.Exit(1 if unproven else 0)
    show_facts(
        model.reference,
        {
            "serves": ", ".join(row["stages"]) or "no stage",
            "proof": "not served: it was recalled"
            if model.recalled
            else {True: "in the signed log", False: "NOT PROVEN by the signed log"}.get(
                shape["proof_verified"]
            ),
            "state": "recalled" if model.recalled else model.state,
            "made from": row["checkpoint"],
            "registered": moment(model.published),
            "size": size(model.size),
            "content": model.content,
            "artifact id": model.id,
        },
    )
    show_said(shape)
    show_verdicts("Gates", verdicts)
    show_table(
        "Stages",
        ("stage", "ready", "what stands against it", "goes back to"),
        [
            (
                stage,
                "serving" if ready["serving"] else "no" if ready["reasons"] else "yes",
                "" if ready["serving"] else "; ".join(ready["reasons"]),
                _way_back_told(ready["rollback"]),
            )
            for stage, ready in readiness.items()
        ],
    )
    if unproven:
        raise typer.Exit(1)


@models.command("fetch")
def fetch_model(
    reference: Model,
    to: training.Target,
    path: Annotated[
        list[str] | None, typer.Option("--path", help="Only this file; may be repeated.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Write a model's files to a folder, verified, all or nothing.

    A stage is resolved through the signed log, not through the catalog's word alone; an alias
    carries no proof, and names what it names.
    """
    if "@" in reference:
        with reading() as registry:
            project, _, name = reference.partition("@")
            if name not in registry.aliases(project):
                reference = registry.resolve(reference).model.id
    training.fetch(reference, Path(to), path, as_json=as_json)


@models.command("evaluate")
def evaluate_run(
    reference: Annotated[str, typer.Argument(help="A run or a model of it, such as digits/run-1.")],
    *,
    as_json: Json = False,
) -> None:
    """Judge a model, or a run's best checkpoints, by the policy in force; exit 1 where none passes.

    The policy is the one that the project's files declare, where the workspace around this folder
    lists them: it comes into force as when Dagster executes an asset of the project. What was
    judged under it, against the model now in production, is not judged again.
    """
    make_importable()
    with reading() as registry:
        found = registry.find(reference)
        if found.kind not in {"model", "training_run"}:
            raise UnknownArtifactError(
                f"{found.reference} is a {str(found.kind).replace('_', ' ')}; write a run, or a "
                f"model such as {found.project}/v1."
            )
        policy = _policy_in_force(registry, found.project)
        if found.kind == "model":
            what, evaluation = found.reference, registry.evaluate_model(found.id)
        else:
            what = f"model of {found.reference}"
            evaluation = registry.evaluate(found.project, found.name)
        rows = [
            shapes.artifact(attempt.model)
            | {
                "passed": attempt.passed,
                "checkpoint": attempt.checkpoint.reference,
                "succeeds": None if attempt.succeeds is None else attempt.succeeds.reference,
                "verdicts": [shapes.verdict(one) for one in attempt.verdicts],
            }
            for attempt in evaluation.attempts
        ]
    if as_json:
        chosen = None if evaluation.chosen is None else evaluation.chosen.reference
        skipped = [gone.reference for gone in evaluation.skipped]
        show_json({"chosen": chosen, "policy": policy.digest, "models": rows, "skipped": skipped})
    else:
        for gone in evaluation.skipped:
            say(f"{gone.reference} was passed over: it was forgotten.")
        for attempt in evaluation.attempts:
            if attempt.succeeds is not None:
                say(
                    f"{attempt.model.reference} was made from the checkpoint of "
                    f"{attempt.succeeds.reference}, because there is other evaluation data now."
                )
            show_verdicts(attempt.model.reference, attempt.verdicts)
        if evaluation.chosen is None:
            no = "does not pass" if found.kind == "model" else "passes"
            say(f"{'' if found.kind == 'model' else 'No '}{what} {no} every gate.")
        else:
            say(f"{evaluation.chosen.reference} passes every gate.")
        say(f"The policy is {short(policy.digest)}, in force since {moment(policy.time)}.")
    if evaluation.chosen is None:
        raise typer.Exit(1)


@models.command("request")
def request_promotion(reference: Model, stage: Stage, reason: Reason = "") -> None:
    """Ask for a model to be promoted."""
    with reading() as registry:
        wish = registry.request(reference, stage, reason)
        approval = registry.needs_approval(wish.model.project, stage)
    say(f"{wish.model.reference} is requested for {stage} (leaf {wish.seq}).")
    step = "approve" if approval else "promote"
    key = " --key NAME" if approval else ""
    note(f"Next: artifact-pipelines model {step} {wish.model.reference} --stage {stage}{key}")


@models.command("approve")
def approve_promotion(
    reference: Model,
    stage: Stage,
    key: Annotated[str, typer.Option("--key", help="The name of the approver's key.")],
) -> None:
    """Sign a requested promotion with an approver's key."""
    with reading() as registry:
        model = _model(registry, reference)
        registry.approve(model.reference, stage, key)
        reasons = registry.why_not(model.id, stage)
    say(f"{key} approved {model.reference} for {stage}.")
    if reasons:
        note(f"What is left: {'; '.join(reasons)}")
    else:
        note(f"Next: artifact-pipelines model promote {model.reference} --stage {stage}")


@models.command("promote")
def promote_model(
    reference: Model, stage: Stage, *, yes: Yes = False, as_json: Json = False
) -> None:
    """Point a stage at a model that has every proof; exit 1 where a rule stands against it."""
    with reading() as registry:
        model = _model(registry, reference)
        now = registry.stages(model.project).get(stage)
        if not registry.why_not(model.id, stage) and (now is None or now.id != model.id):
            # What cannot succeed needs no question: the refusal below gives the reasons.
            was = "nothing" if now is None else now.reference
            ask(
                f"{model.project}@{stage} moves from {was} to {model.reference}",
                yes=yes,
                needed=False,
            )
        done = registry.promote(model.id, stage)
    if as_json:
        show_json(shapes.promotion(done))
    elif done.changed:
        say(f"{done.stage} is {done.model.reference} now (leaf {done.seq}, {done.seconds:.2f} s).")
    else:
        say(f"{done.stage} is {done.model.reference} already; nothing changed.")


@models.command("rollback")
def rollback_stage(
    pointer: Pointer,
    stage: Stage = "production",
    to: Annotated[
        str | None, typer.Option("--to", help="The model; the one before when left out.")
    ] = None,
    reason: Reason = "",
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Point a stage back at a model that it pointed at before."""
    project, stage = _pointer(pointer, stage)
    with reading() as registry:
        registry.check_known_stage(project, stage)
        now = registry.stages(project).get(stage)
        was = "nothing" if now is None else now.reference
        ask(
            f"{project}@{stage} moves from {was} to {to or 'the model before'}",
            yes=yes,
            needed=False,
        )
        done = registry.rollback(project, stage, to, reason)
    if as_json:
        show_json(shapes.promotion(done))
    else:
        say(
            f"{done.stage} is {done.model.reference} again (leaf {done.seq}, {done.seconds:.2f} s)."
        )


@models.command("resolve")
def resolve_stage(
    reference: Annotated[str, typer.Argument(help="A stage, such as digits@production.")],
    known: Annotated[
        int | None, typer.Option("--known", help="The tag that the last answer had.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print what a stage serves, proven by the signed log; poll it with the tag it gives."""
    with reading() as registry:
        found = registry.poll(reference, known)
    if as_json:
        answer: dict[str, Any] = {"stage": reference, "tag": known, "changed": found is not None}
        if found is not None:
            answer |= {
                "tag": found.seq,
                "reference": found.model.reference,
                "artifact_id": found.model.id,
                "content_digest": found.model.content,
                "pending": found.pending,
            }
        show_json(answer)
    elif found is None:
        say(f"{reference} is unchanged since leaf {known}.")
    else:
        say(f"{reference} is {found.model.reference} (leaf {found.seq}), {found.model.content}.")


@models.command("rehearse")
def rehearse_rollback(
    pointer: Pointer, stage: Stage = "production", *, as_json: Json = False
) -> None:
    """Bring back the model that a rollback goes to and have it answer; exit 1 where it cannot.

    A fresh process loads it and is asked as its serving gate asks. The time is kept, and shown by
    `model show`.
    """
    project, stage = _pointer(pointer, stage)
    make_importable()
    with reading() as registry:
        registry.check_known_stage(project, stage)
        found = registry.rehearse_rollback(project, stage)
    if as_json:
        show_json(
            {
                "stage": found.stage,
                "reference": None if found.model is None else found.model.reference,
                "ready": not found.reasons,
                "size_bytes": found.size,
                "seconds": found.seconds,
                "said": list(found.said),
                "reasons": list(found.reasons),
            }
        )
    elif found.model is not None and not found.reasons:
        say(f"{found.stage} can go back to {found.model.reference} in {found.seconds:.2f} s:")
        say(f"{size(found.size)} brought back and verified; {'; '.join(found.said)}.")
    else:
        say(f"{found.stage} CANNOT be rolled back: {'; '.join(found.reasons)}")
    if found.reasons:
        raise typer.Exit(1)


@models.command("history")
def show_history(
    pointer: Pointer,
    stage: Stage = "production",
    at: Annotated[
        str | None, typer.Option("--at", help="Only up to this time, such as 2026-11-23T09:00:00Z.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what a stage serves, or served at a time, and who moved it under which policy."""
    project, stage = _pointer(pointer, stage)
    with reading() as registry:
        registry.check_known_stage(project, stage)
        moves = registry.history(project, stage, None if at is None else utc(at))
    if as_json:
        rows = [shapes.move(found) for found in moves]
        live = rows[-1] if rows else None
        show_json({"project": project, "stage": stage, "at": at, "live": live, "moves": rows})
        return
    if not moves:
        say(f"{project}@{stage} served nothing{'' if at is None else f' by {at}'}.")
        return
    last = moves[-1]
    when = "is" if at is None else f"at {at} was"
    say(f"{project}@{stage} {when} {last.model.reference}")
    say(f"since {moment(last.time)}, under the policy {short(last.policy)},")
    say(f"by {last.actor} ({last.action}).")
    show_table(
        f"{project}@{stage}",
        ("=since", "=model", "=by", "who", "=policy", "#leaf"),
        [
            (
                moment(found.time),
                found.model.reference,
                found.action,
                found.actor,
                short(found.policy),
                found.seq,
            )
            for found in moves
        ],
    )


def _row(registry: "Registry", model: "Artifact", stages: "dict[str, Artifact]") -> dict[str, Any]:
    verdicts = registry.verdicts(model)
    return shapes.artifact(model) | {
        "stages": sorted(stage for stage, found in stages.items() if found.id == model.id),
        "gates": {
            "passed": sum(verdict.passed for verdict in verdicts),
            "failed": sorted(verdict.gate for verdict in verdicts if not verdict.passed),
        },
        "checkpoint": _origin(registry, model).reference,
    }


def _policy_in_force(registry: "Registry", project: str) -> "PolicySet":
    """Return the policy that judges, after the one that the files here declare was set."""
    declared = declared_policy(project)
    if declared is None:
        return registry.policy_set(project)
    before = registry.policy_digest(project)
    if before != declared.digest:
        registry.set_policy(project, declared)
        was = "" if before is None else f", in place of {short(before)}"
        note(f"The policy {short(declared.digest)} of {project}'s files is in force now{was}.")
    return registry.policy_set(project)


def _origin(registry: "Registry", model: "Artifact") -> "Artifact":
    """Return the checkpoint that a model was made from."""
    return registry.get(next(one.id for one in model.record.inputs if one.role == "checkpoint"))


def show_verdicts(title: str, verdicts: "Sequence[Verdict]") -> None:
    """Print what gates said as a table."""
    show_table(
        title,
        ("=gate", "=verdict", "because"),
        [
            (one.gate, "passed" if one.passed else "FAILED", "; ".join(one.reasons))
            for one in verdicts
        ],
    )


def _way_back(registry: "Registry", project: str, stage: str) -> shapes.Shape | None:
    """Return what a rollback of a stage goes to, and what its last rehearsal found."""
    model = registry.rollback_target(project, stage)
    if model is None:
        return None
    found = registry.rehearsed(model, stage)
    return {
        "reference": model.reference,
        "rehearsed": None if found is None else found.at,
        "seconds": None if found is None else found.seconds,
        "ready": None if found is None else found.ready,
    }


def _way_back_told(way: dict[str, Any] | None) -> str:
    if way is None:
        return ""
    if way["rehearsed"] is None:
        return f"{way['reference']}, not rehearsed"
    how = f"in {way['seconds']:.2f} s" if way["ready"] else "FAILED"
    return f"{way['reference']}, rehearsed {how} {moment(way['rehearsed'])}"


def _state(row: shapes.Shape) -> str:
    """Return what has become of a model, in a word."""
    if row["recalled"]:
        return "recalled"
    return "failed" if row["state"] == "live" and row["gates"]["failed"] else str(row["state"])


def _gates(gates: dict[str, Any]) -> str:
    if gates["failed"]:
        return f"{len(gates['failed'])} failed"
    return f"{gates['passed']} passed" if gates["passed"] else "not judged"


def _model(registry: "Registry", reference: str) -> "Artifact":
    found = registry.find(reference)
    if found.kind != "model":
        raise UnknownArtifactError(
            f"{reference} is a {str(found.kind).replace('_', ' ')}, not a model; "
            f"write a model such as {found.project}/v1."
        )
    return found


def _proven(registry: "Registry", model: "Artifact", stages: list[str]) -> bool | None:
    """Return whether the signed log proves each stage that serves a model, or None."""
    if not stages:
        return None
    try:
        served = [registry.resolve(f"{model.project}@{stage}") for stage in stages]
    except (LedgerError, UnknownArtifactError):
        return False
    return all(one.model.id == model.id for one in served)


def _pointer(text: str, stage: str) -> tuple[str, str]:
    project, _, named = text.partition("@")
    if "/" in project:
        raise UnknownArtifactError(
            f"{text!r} is no stage; write {project.partition('/')[0]}@{named or stage}."
        )
    return project, named or stage
