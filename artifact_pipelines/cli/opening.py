"""How a command gets at the registry, imported only when it is needed."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.errors import ConfigurationError, UnknownArtifactError
from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from artifact_pipelines.domain.policy import Policy
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
    for _, folder in _locations(start):
        if folder is not None:
            sys.path.append(str(folder))


def declared_policy(project: str) -> "Policy | None":
    """Return the policy that the project's files here declare, loaded as Dagster loads them.

    Nothing where the workspace around this folder, or the project that it is in, has no such
    project, or runs it in another Python.

    Raises:
        ConfigurationError: The files cannot be loaded; the sentence says what to mend.
    """
    for module, folder in _locations():
        if folder is not None and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        if module is None or not _speaks_of(module, project):
            continue
        # Dagster takes a second to import.
        import dagster

        from artifact_pipelines.defs.location import places

        try:
            held = vars(importlib.import_module(module)).values()
        except ConfigurationError:
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigurationError(f"{module} cannot be loaded: {said}") from error
        for definitions in held:
            if isinstance(definitions, dagster.Definitions):
                found = places(definitions).get(project)
                if found is not None:
                    return found.policy
    return None


def _locations(start: Path | None = None) -> list[tuple[str | None, Path | None]]:
    """Return the modules that the workspace or project around a folder lists, and where from."""
    import tomllib

    import yaml

    here = (start or Path.cwd()).absolute()
    around = (here, *here.parents)
    found: list[tuple[str | None, Path | None]] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        for folder in around:
            if (folder / "workspace.yaml").is_file():
                text = (folder / "workspace.yaml").read_text(encoding="utf-8")
                for entry in yaml.safe_load(text)["load_from"]:
                    ((_, place),) = entry.items()
                    place = {"module_name": place} if isinstance(place, str) else place
                    own = "executable_path" not in place
                    at = place.get("working_directory")
                    found.append(
                        (
                            place.get("module_name") if own else None,
                            None if at is None else folder / str(at),
                        )
                    )
                return found
        for folder in around:
            if (folder / "pyproject.toml").is_file():
                text = (folder / "pyproject.toml").read_text(encoding="utf-8")
                module = tomllib.loads(text)["tool"]["dg"]["project"]["code_location_target_module"]
                return [(str(module), folder)]
    return found


def _speaks_of(module: str, project: str) -> bool:
    """Return whether the files of a code location name a project: loading one takes seconds."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None or module == "artifact_pipelines.definitions":
        return False
    return any(
        project in file.read_text(encoding="utf-8", errors="replace")
        for kind in ("*.yaml", "*.yml", "*.py")
        for file in Path(spec.origin).parent.rglob(kind)
    )


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
