"""How a command gets at the registry, imported only when it is needed."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry


def settings() -> Settings:
    """Return the settings that the environment asks for."""
    return Settings.from_environment()


@contextlib.contextmanager
def writing() -> Iterator["Registry"]:
    """Open the registry, made where there is none."""
    from artifact_pipelines.registry import open_registry
    from artifact_pipelines.registry.observing import tell

    found = settings()
    tell(found.logs, found.metrics, spans=found.spans)
    with open_registry(
        found.home,
        store_url=found.store_url,
        catalog_url=found.catalog_url,
        keys=found.keys,
        actor=found.actor,
    ) as registry:
        yield registry


@contextlib.contextmanager
def listing() -> Iterator["Registry | None"]:
    """Open the registry, or yield nothing where the home is empty; looking makes no home."""
    if settings().empty:
        yield None
        return
    with writing() as registry:
        yield registry


@contextlib.contextmanager
def reading() -> Iterator["Registry"]:
    """Open the registry that is there.

    Raises:
        UnknownArtifactError: The home is empty.
    """
    found = settings()
    if found.empty:
        raise UnknownArtifactError(
            f"the home {found.home} is empty: materialize a project's datasets in Dagster, run "
            "`artifact-pipelines demo`, or set ARTIFACT_PIPELINES_HOME to another home."
        )
    with writing() as registry:
        yield registry


def make_importable(start: Path | None = None) -> None:
    """Let this process import the projects that the workspace around a folder lists."""
    import yaml

    here = (start or Path.cwd()).absolute()
    above = (folder / "workspace.yaml" for folder in (here, *here.parents))
    file = next((found for found in above if found.is_file()), None)
    if file is None:
        return
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        entries = found.get("load_from") if isinstance(found, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            for location in entry.values() if isinstance(entry, dict) else []:
                if isinstance(location, dict) and "working_directory" in location:
                    sys.path.append(str(file.parent / str(location["working_directory"])))


def projects(registry: "Registry | None", project: str | None) -> list[str]:
    """Return the projects that a list is about: the one that was named, or all.

    Raises:
        UnknownArtifactError: There is none of that name.
    """
    known = [] if registry is None else registry.projects()
    if project is None:
        return known
    if project not in known:
        raise UnknownArtifactError(
            f"there is no project {project!r}; there is {', '.join(known) or 'none yet'}."
        )
    return [project]
