"""The inbox: what outside trainers leave is registered once it is complete."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import dagster as dg

from artifact_pipelines.defs.upkeep import ShardConfig, answered, asked, upkeep
from artifact_pipelines.fanning import Fanned, fanned_out
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.inbox import SETTING
from artifact_pipelines.registry.receiving import Drop
from artifact_pipelines.resources import RegistryResource

MOST_AT_ONCE = 1 << 30
"""The bytes from which a run imports them in shards, and not the sensor."""
_SECONDS = 30.0  # for one tick, which Dagster gives up after a minute; the next one goes on
_OUTCOMES = ("imported", "known", "waiting", "refused")


def _place() -> str:
    found = os.environ.get(SETTING, "")
    if not found:
        raise dg.Failure(
            f"{SETTING} names no folder and no bucket; set it where the code location and its "
            "workers run.",
            allow_retries=False,
        )
    return found


def _cut(registry: Registry, config: ShardConfig, _run: str) -> list[list[str]]:
    return registry.inbox_shards(_place(), each=config.each)


def _receive(registry: Registry, runs: list[str]) -> list[Drop]:
    return registry.receive(_place(), runs)


def _received(_registry: Registry, parts: list[list[Drop]]) -> dg.MaterializeResult[Any]:
    drops = [drop for part in parts for drop in part]
    refused = [drop.said for drop in drops if drop.outcome == "refused"]
    return dg.MaterializeResult(
        metadata={**_counts(drops), "shards": len(parts)},
        check_results=[answered("accepted", refused, "refused")],
    )


received = fanned_out(
    dg.AssetKey(["registry", "inbox"]),
    Fanned(_cut, _receive, _received, shard=list[str], found=list[Drop]),
    opened=RegistryResource.opened,
    config=ShardConfig,
    checks=[asked("inbox", "accepted", "Nothing that was left in the inbox is refused.")],
    description="What was left in the inbox and was not known yet, imported.",
    **upkeep("store"),
)


@dg.sensor(
    name="inbox",
    target=[received],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Imports complete checkpoints from the inbox, and says what waits or is refused.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SkipReason | dg.RunRequest:
    """Import what is complete; the event sensors of the projects bring it into the graph."""
    inbox = os.environ.get(SETTING, "")
    if not inbox:
        return dg.SkipReason(f"{SETTING} names no folder and no bucket.")
    with registry.opened() as opened:
        unknown = opened.unknown_in(inbox)
        if sum(sum(left.sizes.values()) for left in unknown) > MOST_AT_ONCE:
            # The same drops ask for one run, however often they are seen.
            prints = " ".join(sorted(left.fingerprint for left in unknown))
            return dg.RunRequest(run_key=f"inbox/{hashlib.sha256(prints.encode()).hexdigest()}")
        drops = opened.receive(inbox, seconds=_SECONDS)
    for drop in drops:
        if drop.outcome == "imported":
            context.log.info("imported %s", drop.said)
        elif drop.outcome != "known":
            context.log.warning("%s %s", drop.outcome, drop.said)
    return dg.SkipReason(", ".join(f"{count} {name}" for name, count in _counts(drops).items()))


def _counts(drops: Sequence[Drop]) -> dict[str, int]:
    return {name: sum(drop.outcome == name for drop in drops) for name in _OUTCOMES}
