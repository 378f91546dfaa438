"""The inbox as a sensor: what outside trainers leave is registered once it is complete."""

import os
from pathlib import Path

import dagster as dg

from artifact_pipelines.resources import RegistryResource

INBOX = "ARTIFACT_PIPELINES_INBOX"
"""The variable that names the folder; without it the sensor has nothing to look at."""


@dg.sensor(
    name="inbox",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Imports complete checkpoints from the inbox, and says what waits or is refused.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SkipReason:
    """Import what is complete; the event sensors of the projects bring it into the graph."""
    folder = os.environ.get(INBOX, "")
    if not folder:
        return dg.SkipReason(f"{INBOX} names no folder.")
    with registry.opened() as opened:
        drops = opened.receive(Path(folder))
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
