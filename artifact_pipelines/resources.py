"""The registry as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.settings import Settings


class RegistryResource(dg.ConfigurableResource[None]):
    """The registry that the environment names, opened for the length of a step."""

    @contextmanager
    def opened(self) -> Iterator[Registry]:
        """Open the registry; what it refuses fails the step with its one sentence."""
        try:
            settings = Settings.from_environment()
            with open_registry(
                settings.home,
                store_url=settings.store_url,
                catalog_url=settings.catalog_url,
                keys=settings.keys,
                actor=settings.actor,
            ) as registry:
                yield registry
        except ArtifactError as error:
            # Nothing changes by trying again: the rules have said no.
            raise dg.Failure(str(error), allow_retries=False) from error
