"""How trainers get at the registry: by the environment, or by a home that they name."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry


def settings_of(home: str | Path | None) -> Settings:
    """Return the environment's settings, with another home where one is given."""
    chosen = {} if home is None else {"ARTIFACT_PIPELINES_HOME": str(home)}
    return Settings.from_environment({**os.environ, **chosen})


def open_home(settings: Settings, *, make: bool = True) -> "Registry":
    """Open the registry that some settings name.

    Args:
        settings: Where it is.
        make: Whether one is made where there is none; standard error then says where.

    Raises:
        UnknownArtifactError: There is none, and none is to be made.
    """
    from artifact_pipelines.registry import open_registry
    from artifact_pipelines.registry.observing import tell

    if settings.empty:
        if not make:
            raise UnknownArtifactError(
                f"the home {settings.home} is empty; set ARTIFACT_PIPELINES_HOME, or pass home=, "
                "to the folder that holds your artifacts."
            )
        sys.stderr.write(
            f"artifact-pipelines: {settings.home} is a new home, with nothing in it yet; set "
            "ARTIFACT_PIPELINES_HOME, or pass home=, to use another.\n"
        )
    tell(settings.logs, settings.metrics, spans=settings.spans)
    return open_registry(
        settings.home,
        store_url=settings.store_url,
        catalog_url=settings.catalog_url,
        keys=settings.keys,
        actor=settings.actor,
    )
