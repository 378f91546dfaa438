"""What `doctor` finds of Dagster: its versions, home, settings and telemetry, and the workspace."""

import json
import os
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from artifact_pipelines.settings import Settings

Check = tuple[str, str, str]

_PIN = re.compile(r"^(dagster[a-z-]*)==([0-9.]+)")
_PREPARE = "artifact-pipelines dagster prepare"


def dagster_checks(found: Settings, here: Path) -> list[Check]:
    """Return the name, state and finding of every check of Dagster.

    Args:
        found: What the environment asks for.
        here: The folder that Dagster's commands would be started in.
    """
    return [_family(), *_home(found, here), _environment(found, here), *_workspace(here), _dg()]


def _family() -> Check:
    """Compare the packages of the Dagster family with those that belong together."""
    pins = [match for text in requires("artifact-pipelines") or () if (match := _PIN.match(text))]
    wrong = []
    for match in pins:
        package, wanted = match[1], match[2]
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            wrong.append(f"{package} is {installed} and should be {wanted}")
    if wrong:
        said = f"{'; '.join(wrong)}: reinstall artifact-pipelines, which pins them together."
        return ("dagster family", "fail", said)
    return ("dagster family", "ok", f"{len(pins)} packages, all of one release.")


def _home(found: Settings, here: Path) -> list[Check]:
    """Look at the folder of the Dagster instance and open it."""
    folder = found.dagster_home
    configuration = folder / "dagster.yaml"
    if configuration.is_symlink() and not configuration.exists():
        said = f"{configuration} links to {configuration.readlink()}, which is gone: {_PREPARE}"
        return [("dagster home", "fail", said)]
    if not configuration.exists():
        return [("dagster home", "ok", f"{folder} is made by: {_PREPARE}")]
    checks = [("dagster home", "ok", f"{folder} is ready.")]
    ours = here / "dagster.yaml"
    if ours.is_file() and configuration.is_symlink() and configuration.resolve() != ours.resolve():
        said = f"{configuration} links to {configuration.resolve()}, not to {ours}: {_PREPARE}"
        checks = [("dagster home", "warn", said)]
    checks.append(_instance(folder))
    asked = os.environ.get("DAGSTER_HOME")
    if asked and Path(asked) != folder:
        said = f"DAGSTER_HOME is {asked}, so Dagster's commands do not use {folder}."
        checks.append(("DAGSTER_HOME", "warn", said))
    return checks


def _instance(folder: Path) -> Check:
    import dagster as dg

    try:
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            count = instance.get_runs_count()
            behind = _migrations(instance)
    except Exception as error:  # noqa: BLE001 (whatever keeps it from opening is the finding)
        said = " ".join(str(error).split())
        return ("dagster instance", "fail", f"{folder} cannot be opened: {said}")
    if behind:
        said = (
            f"{folder} was migrated by another Dagster than {version('dagster')} ({behind}): run "
            "`dagster instance migrate` where it is older, install the newer one where it is newer."
        )
        return ("dagster instance", "fail", said)
    return ("dagster instance", "ok", f"{count} runs.")


def _migrations(instance: Any) -> str:  # noqa: ANN401 (Dagster is imported late)
    """Return which databases of an instance have another schema than the installed Dagster's."""
    wrong = []
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        found = storage.alembic_version()
        if found is not None and found[0] != found[1]:
            wrong.append(f"{found[0]} and not {found[1]}")
    return ", ".join(dict.fromkeys(wrong))


def _environment(found: Settings, here: Path) -> Check:
    """Look at the `.env` that tells Dagster's commands where the home is."""
    file = here / ".env"
    if os.environ.get("DAGSTER_HOME"):
        return (".env", "ok", "DAGSTER_HOME is set, so none is needed.")
    if not (here / "workspace.yaml").exists() and not (here / "pyproject.toml").exists():
        return (".env", "ok", "none is needed here: there is no workspace and no project.")
    if not file.exists():
        said = f"{here} has none, so Dagster's commands would make a temporary home: {_PREPARE}"
        return (".env", "warn", said)
    text = file.read_text(encoding="utf-8")
    if "DAGSTER_HOME" not in text:
        said = f"{file} does not name DAGSTER_HOME; add DAGSTER_HOME={found.dagster_home}"
        return (".env", "warn", said)
    if str(found.home) not in text and not os.environ.get("ARTIFACT_PIPELINES_HOME"):
        said = f"{file} names another home than {found.home}: delete it, then {_PREPARE}"
        return (".env", "warn", said)
    return (".env", "ok", f"{file} names the home.")


def _workspace(here: Path) -> list[Check]:
    """Look whether the code locations that are listed can be there."""
    file = here / "workspace.yaml"
    if not file.exists():
        return []
    try:
        listed: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        locations = [entry.get("python_module") for entry in listed["load_from"]]
    except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError) as error:
        return [("workspace", "fail", f"{file} cannot be read: {' '.join(str(error).split())}")]
    missing = []
    for location in locations:
        place = location if isinstance(location, dict) else {"module_name": location}
        name = place.get("module_name")
        if name and not _is_there(str(name), here / str(place.get("working_directory", "."))):
            missing.append(f"{name} in {place.get('working_directory', here)}")
    if missing:
        return [("workspace", "fail", f"{file} lists what is not there: {', '.join(missing)}.")]
    return [
        ("workspace", "ok", f"{len(locations)} code locations."),
        *_versions(listed["load_from"]),
    ]


def _versions(locations: list[Any]) -> list[Check]:
    """Return which code locations have another Dagster than this one."""
    here = version("dagster")
    found: list[Check] = []
    for location in locations:
        ((kind, place),) = location.items() if isinstance(location, dict) else (("", location),)
        place = place if isinstance(place, dict) else {}
        if kind == "grpc_server":
            name = f"{place.get('host', 'localhost')}:{place.get('port', place.get('socket'))}"
            there = _served(place)
        elif place.get("executable_path"):
            name = str(place["executable_path"])
            there = _installed(name)
        else:
            continue  # it is loaded by this Python
        name = str(place.get("location_name", name))
        if there is None:
            said = f"{name} does not say which Dagster it has: start it, or look at its log."
            found.append(("code location", "warn", said))
        elif there != here:
            said = (
                f"{name} has Dagster {there}, and here is {here}: install one release in both, "
                "then start its code server again."
            )
            found.append(("code location", "fail", said))
        else:
            found.append(("code location", "ok", f"{name} has Dagster {there}."))
    return found


def _served(place: dict[str, Any]) -> str | None:
    """Return the version of Dagster that a code server says it has."""
    # What a code server is asked with is nowhere public.
    from dagster._grpc.client import DagsterGrpcClient  # noqa: TID251

    try:
        client = DagsterGrpcClient(
            host=place.get("host", "localhost"), port=place.get("port"), socket=place.get("socket")
        )
        said: Any = json.loads(client.list_repositories())
    except Exception:  # noqa: BLE001 (that it does not answer is the finding)
        return None
    return (said.get("dagster_library_versions") or {}).get("dagster")


def _installed(python: str) -> str | None:
    """Return the version of Dagster that another Python has."""
    asked = "from importlib.metadata import version; print(version('dagster'))"
    try:
        ran = subprocess.run(  # noqa: S603 (the Python that the workspace names)
            [python, "-c", asked], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


def _is_there(module: str, folder: Path) -> bool:
    parts = module.split(".")
    if folder.joinpath(*parts).is_dir() or folder.joinpath(*parts).with_suffix(".py").is_file():
        return True
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _dg() -> Check:
    """Look whether `dg` keeps its usage statistics to itself."""
    if os.environ.get("DAGSTER_HOME"):
        return ("dg", "ok", "asks DAGSTER_HOME whether to send usage statistics.")
    file = Path(os.environ.get("DG_CLI_CONFIG", Path.home() / ".dg.toml"))
    try:
        import tomllib

        told = tomllib.loads(file.read_text(encoding="utf-8"))
        if not told["cli"]["telemetry"]["enabled"]:
            return ("dg", "ok", f"sends no usage statistics, as {file} says.")
    except (OSError, KeyError, TypeError, ValueError):
        pass
    said = (
        f"sends usage statistics where DAGSTER_HOME is not set; to {file} add [cli.telemetry] "
        "with enabled = false."
    )
    return ("dg", "warn", said)
