"""The repository: the assets that were there, and the models beside them."""

import dagster as dg

from artifact_pipelines.project import load_project
from warehouse_project import assets

defs = load_project(
    __file__,
    beside=dg.Definitions(
        assets=dg.load_assets_from_modules([assets]),
        jobs=[assets.warehouse_job],
    ),
)
