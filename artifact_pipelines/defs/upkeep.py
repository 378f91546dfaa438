"""What keeps a registry sound: signed heads, scrubs, prune and the storage report."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from artifact_pipelines.resources import RegistryResource
from artifact_pipelines.settings import Settings

_GROUP = "upkeep"
_BAR = 40  # characters of the longest bar


@dg.asset(key=["registry", "tree_head"], group_name=_GROUP, kinds={"ledger"}, code_version="1")
def tree_head(registry: RegistryResource) -> dg.MaterializeResult[Any]:
    """The newest signed head of the ledger."""
    with registry.opened() as opened:
        head = opened.sign_head()
        return dg.MaterializeResult(
            metadata={"leaves": head.size, "root": head.root.hex()[:12], "origin": head.origin},
            data_version=dg.DataVersion(head.root.hex()),
        )


class ScrubConfig(dg.Config):
    """How much of the store is read again.

    Attributes:
        sample: The share of the stored bytes.
        seed: What the sample is drawn by; another one each time when left out.
    """

    sample: float = 1.0
    seed: int | None = None


@dg.asset(
    key=["registry", "scrub"],
    group_name=_GROUP,
    kinds={"store"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "bytes",
            asset=["registry", "scrub"],
            description="Every stored chunk matches its key.",
        ),
        dg.AssetCheckSpec(
            "ledger",
            asset=["registry", "scrub"],
            description="The ledger, its signatures and the catalog agree.",
        ),
    ],
)
def scrub(config: ScrubConfig, registry: RegistryResource) -> Iterator[dg.MaterializeResult[Any]]:
    """The stored chunks, each read again and compared with its key."""
    with registry.opened() as opened:
        found = opened.scrub(
            sample=config.sample,
            seed=config.seed,
            replica_url=Settings.from_environment().replica_url,
        )
        ledger = opened.verify_ledger()
        damage = [
            f"{', '.join(damage.artifacts) or 'no live artifact'}: {damage.what}"
            for damage in found.damaged
        ]
        yield dg.MaterializeResult(
            metadata={
                "packs": found.packs,
                "chunks": found.chunks,
                "megabytes": round(found.size / 1e6, 3),
                "damaged": len(found.damaged),
                "healed": len(found.healed),
                "sample": config.sample,
                "seed": found.seed,
                "leaves": ledger.leaves,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="bytes",
                    passed=found.ok,
                    metadata={"damage": dg.MetadataValue.md("\n".join(damage) or "none")},
                ),
                dg.AssetCheckResult(
                    check_name="ledger",
                    passed=ledger.ok,
                    metadata={
                        "problems": dg.MetadataValue.md("\n".join(ledger.problems) or "none")
                    },
                ),
            ],
        )


@dg.asset(
    key=["registry", "prune"],
    group_name=_GROUP,
    kinds={"store"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "two_engines_agree",
            asset=["registry", "prune"],
            description="The catalog and the store say the same about what is alive.",
        )
    ],
)
def prune(registry: RegistryResource) -> Iterator[dg.MaterializeResult[Any]]:
    """The packs that nothing could reach, deleted after their grace."""
    with registry.opened() as opened:
        # Packs that are mostly dead are rewritten first, so that their rest can go.
        compacted = opened.compact()
        found = opened.prune()
        yield dg.MaterializeResult(
            metadata={
                "compacted": compacted.packs,
                "condemned": found.condemned,
                "deleted": found.deleted,
                "megabytes_freed": round(found.freed / 1e6, 3),
                "swept": found.swept,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="two_engines_agree",
                    passed=not found.disagreements,
                    metadata={"differences": "; ".join(found.disagreements) or "none"},
                )
            ],
        )


@dg.asset(key=["registry", "storage_report"], group_name=_GROUP, kinds={"store"}, code_version="1")
def storage_report(registry: RegistryResource) -> dg.MaterializeResult[Any]:
    """What the store holds, in all and per project."""
    with registry.opened() as opened:
        report = opened.storage_report()
        columns = [
            dg.TableColumn("project", "string"),
            dg.TableColumn("artifacts", "int"),
            dg.TableColumn("logical_bytes", "int"),
            dg.TableColumn("stored_bytes", "int"),
        ]
        metadata: dict[str, Any] = dict(report["totals"])
        metadata["where_bytes_go"] = dg.MetadataValue.md(picture(report))
        if report["projects"]:
            metadata["projects"] = dg.MetadataValue.table(
                [dg.TableRecord(row) for row in report["projects"]],
                schema=dg.TableSchema(columns),
            )
        return dg.MaterializeResult(metadata=metadata)


def picture(report: Mapping[str, Any]) -> str:
    """Return a table of bars: what was published, what saved how much of it, what is stored."""
    saved = report["saved"]
    rows = [
        ("published", report["totals"]["logical_bytes"] + _forgotten(saved)),
        *((f"given up by {rule}", size) for rule, size in saved["rules"].items()),
        ("deduplicated", saved["deduplication"]),
        ("compressed", saved["compression"]),
        ("stored as differences", saved["tier"]),
        ("stored", report["totals"]["stored_bytes"]),
    ]
    longest = max((size for _, size in rows), default=0) or 1
    lines = ["| | MB | |", "|---|---:|---|"]
    lines += [
        f"| {name} | {size / 1e6:,.2f} | {'█' * round(_BAR * max(size, 0) / longest)} |"
        for name, size in rows
    ]
    return "\n".join(lines)


def _forgotten(saved: Mapping[str, Any]) -> int:
    """Return the bytes of forgotten artifacts, which the logical bytes leave out."""
    return sum(size for rule, size in saved["rules"].items() if rule != "slim")


@dg.asset(
    key=["registry", "restore_drill"],
    group_name=_GROUP,
    kinds={"store"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "restorable",
            asset=["registry", "restore_drill"],
            description="What was drawn could be brought back, verified and loaded.",
        )
    ],
)
def restore_drill(registry: RegistryResource) -> Iterator[dg.MaterializeResult[Any]]:
    """A sample of checkpoints and models, the long unproven and archived first, brought back."""
    with registry.opened() as opened:
        found = opened.drill()
        proven = [one for project in opened.projects() for one in opened.proven(project)]
        failed = [f"{one.reference}: {said}" for one in found for said in one.problems]
        lines = [f"- {one.reference} ({one.tier}): {one.at or 'never'}" for one in proven]
        yield dg.MaterializeResult(
            metadata={
                "drilled": len(found),
                "megabytes": round(sum(one.size for one in found) / 1e6, 3),
                "loaded": sum(one.loaded for one in found),
                "never_proven": sum(one.at is None for one in proven),
                "last_proven_restorable": dg.MetadataValue.md("\n".join(lines) or "no models yet"),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="restorable",
                    passed=not failed,
                    metadata={"problems": dg.MetadataValue.md("\n".join(failed) or "none")},
                )
            ],
        )


SCHEDULES = [
    dg.ScheduleDefinition(
        name=name,
        target=[asset],
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=text,
    )
    for name, asset, cron, text in (
        ("tree_head_hourly", tree_head, "5 * * * *", "Have the ledger signed every hour."),
        ("prune_daily", prune, "30 4 * * *", "Delete what nothing can reach every night."),
        ("scrub_weekly", scrub, "0 5 * * 0", "Read every stored byte again every week."),
        ("restore_drill_weekly", restore_drill, "0 7 * * 0", "Rehearse restores every week."),
        ("storage_report_weekly", storage_report, "0 6 * * 1", "Report on storage every week."),
    )
]
