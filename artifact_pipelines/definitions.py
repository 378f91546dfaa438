"""The platform's code location: what every registry needs, once."""

import dagster as dg

from artifact_pipelines.defs import failures, inbox, upkeep
from artifact_pipelines.fanning import VALUES, StepValues, executor
from artifact_pipelines.resources import RegistryResource

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([inbox, upkeep]),
    schedules=upkeep.SCHEDULES,
    sensors=[failures.run_failures, inbox.inbox_sensor],
    resources={"registry": RegistryResource(), VALUES: StepValues()},
    executor=executor(),
)
