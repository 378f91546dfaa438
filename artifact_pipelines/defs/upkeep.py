"""What keeps a registry sound: signed heads, scrubs, prune and the storage report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from artifact_pipelines.fanning import Described, Fanned, fanned_out
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.drilling import SAMPLE, Drilled
from artifact_pipelines.registry.scrubbing import ScrubReport, ScrubShard
from artifact_pipelines.resources import RegistryResource
from artifact_pipelines.settings import Settings

_GROUP = "upkeep"
_BAR = 40  # characters of the longest bar
_MEGABYTE = 1 << 20


def upkeep(kind: str) -> Described:
    """Return what every asset of the upkeep is given."""
    return Described(group_name=_GROUP, kinds={kind}, code_version="1")


def asked(asset: str, name: str, question: str) -> dg.AssetCheckSpec:
    """Return a check of an asset of the upkeep."""
    return dg.AssetCheckSpec(name, asset=["registry", asset], description=question)


def answered(name: str, against: Sequence[str], what: str) -> dg.AssetCheckResult:
    """Return a check that passes where nothing speaks against it."""
    said = dg.MetadataValue.md("\n".join(against) or "none")
    return dg.AssetCheckResult(check_name=name, passed=not against, metadata={what: said})


def _replica() -> str | None:
    return Settings.from_environment().replica_url


@dg.asset(key=["registry", "tree_head"], group_name=_GROUP, kinds={"ledger"}, code_version="1")
def tree_head(registry: RegistryResource) -> dg.MaterializeResult[Any]:
    """The newest signed head of the ledger."""
    with registry.opened() as opened:
        head = opened.sign_head()
        return dg.MaterializeResult(
            metadata={"leaves": head.size, "root": head.root.hex()[:12], "origin": head.origin},
            data_version=dg.DataVersion(head.root.hex()),
        )


class ShardConfig(dg.Config):
    """How work is cut.

    Attributes:
        shard_megabytes: What a shard holds, about.
    """

    shard_megabytes: float = Field(default=1024, gt=0)

    @property
    def each(self) -> int:
        """The bytes of a shard, about."""
        return max(1, round(self.shard_megabytes * _MEGABYTE))


class ScrubConfig(ShardConfig):
    """How much of the store is read again.

    Attributes:
        sample: The share of the stored bytes.
        seed: What the sample is drawn by; another one each time when left out.
    """

    sample: float = 1.0
    seed: int | None = None


def _cut_scrub(registry: Registry, config: ScrubConfig, _run: str) -> list[ScrubShard]:
    return registry.scrub_shards(sample=config.sample, seed=config.seed, each=config.each)


def _scrub_shard(registry: Registry, shard: ScrubShard) -> ScrubReport:
    return registry.scrub_shard(shard, replica_url=_replica())


def _scrubbed(registry: Registry, reports: list[ScrubReport]) -> dg.MaterializeResult[Any]:
    found = registry.end_scrub(reports, replica_url=_replica())
    ledger = registry.verify_ledger()
    damage = [
        f"{', '.join(damage.artifacts) or 'no live artifact'}: {damage.what}"
        for damage in found.damaged
    ]
    return dg.MaterializeResult(
        metadata={
            "packs": found.packs,
            "chunks": found.chunks,
            "megabytes": round(found.size / 1e6, 3),
            "damaged": len(found.damaged),
            "healed": len(found.healed),
            "seed": found.seed,
            "shards": len(reports),
            "leaves": ledger.leaves,
        },
        check_results=[
            answered("bytes", damage, "damage"),
            answered("ledger", ledger.problems, "problems"),
        ],
    )


scrub = fanned_out(
    dg.AssetKey(["registry", "scrub"]),
    Fanned(_cut_scrub, _scrub_shard, _scrubbed, shard=ScrubShard, found=ScrubReport),
    opened=RegistryResource.opened,
    config=ScrubConfig,
    checks=[
        asked("scrub", "bytes", "Every stored chunk matches its key."),
        asked("scrub", "ledger", "The ledger, its signatures and the catalog agree."),
    ],
    description="The stored chunks, each read again and compared with its key.",
    **upkeep("store"),
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


class DrillConfig(ShardConfig):
    """What is rehearsed.

    Attributes:
        sample: How many artifacts are brought back.
    """

    sample: int = SAMPLE


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A part of what a drill has drawn."""

    artifacts: list[str]
    rehearsal: str


def _cut_drill(registry: Registry, config: DrillConfig, run: str) -> list[_Drawn]:
    return [_Drawn(part, run) for part in registry.drill_shards(config.sample, each=config.each)]


def _drill_shard(registry: Registry, shard: _Drawn) -> list[Drilled]:
    return registry.drill_shard(shard.artifacts, shard.rehearsal)


def _drilled(registry: Registry, parts: list[list[Drilled]]) -> dg.MaterializeResult[Any]:
    found = [one for part in parts for one in part]
    proven = [one for project in registry.projects() for one in registry.proven(project)]
    failed = [f"{one.reference}: {said}" for one in found for said in one.problems]
    lines = [f"- {one.reference} ({one.tier}): {one.at or 'never'}" for one in proven]
    return dg.MaterializeResult(
        metadata={
            "drilled": len(found),
            "megabytes": round(sum(one.size for one in found) / 1e6, 3),
            "loaded": sum(one.loaded for one in found),
            "shards": len(parts),
            "never_proven": sum(one.at is None for one in proven),
            "last_proven_restorable": dg.MetadataValue.md("\n".join(lines) or "no models yet"),
        },
        check_results=[answered("restorable", failed, "problems")],
    )


restore_drill = fanned_out(
    dg.AssetKey(["registry", "restore_drill"]),
    Fanned(_cut_drill, _drill_shard, _drilled, shard=_Drawn, found=list[Drilled]),
    opened=RegistryResource.opened,
    config=DrillConfig,
    checks=[
        asked(
            "restore_drill",
            "restorable",
            "What was drawn could be brought back, verified and loaded.",
        )
    ],
    description=(
        "A sample of checkpoints and models, the long unproven and archived first, brought back."
    ),
    **upkeep("store"),
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
