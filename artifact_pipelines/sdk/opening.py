"""How trainers get at the registry: by the environment, or by a home that they name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry


def settings_of(home: str | Path | None) -> Settings:
    """Return the environment's settings, with another home where one is given."""
    chosen = {} if home is None else {"ARTIFACT_PIPELINES_HOME": str(home)}
    return Settings.from_environment({**os.environ, **chosen})


def open_home(settings: Settings) -> "Registry":
    """Open the registry that some settings name."""
    from artifact_pipelines.registry import open_registry
    from artifact_pipelines.registry.observing import tell

    tell(settings.logs, settings.metrics, spans=settings.spans)
    return open_registry(
        settings.home,
        store_url=settings.store_url,
        catalog_url=settings.catalog_url,
        keys=settings.keys,
        actor=settings.actor,
    )
