"""The inbox as a sensor: what outside trainers leave is registered once it is complete."""

import os

import dagster as dg

from artifact_pipelines.registry.inbox import SETTING
from artifact_pipelines.resources import RegistryResource

_SECONDS = 30.0  # for one tick, which Dagster gives up after a minute; the next one goes on


@dg.sensor(
    name="inbox",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Imports complete checkpoints from the inbox, and says what waits or is refused.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SkipReason:
    """Import what is complete; the event sensors of the projects bring it into the graph."""
    inbox = os.environ.get(SETTING, "")
    if not inbox:
        return dg.SkipReason(f"{SETTING} names no folder and no bucket.")
    with registry.opened() as opened:
        drops = opened.receive(inbox, seconds=_SECONDS)
    for drop in drops:
        if drop.outcome == "imported":
            context.log.info("imported %s", drop.said)
        elif drop.outcome != "known":
            context.log.warning("%s %s", drop.outcome, drop.said)
    counts = {
        outcome: sum(drop.outcome == outcome for drop in drops)
        for outcome in ("imported", "known", "waiting", "refused")
    }
    return dg.SkipReason(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
