"""Train a recorded run again: its code, parameters, inputs and environment, and compare.

`artifact-pipelines run reproduce` writes this file beside the run's `run.json`, and the packages
of its environment as `requirements.lock`. It needs Git, and a registry that holds the inputs.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SAME, DIFFERENT, USAGE = 0, 1, 2


class CannotError(Exception):
    """The run cannot be trained again here; the message says why."""


def main(words: Sequence[str] | None = None) -> int:
    """Return 0 if every checkpoint has the recorded content, 1 if one has not, 2 if it cannot."""
    parser = argparse.ArgumentParser(description="Train a recorded run again, and compare.")
    parser.add_argument("--name", help="the new run's name; the old one and '-again' if left out")
    parser.add_argument("--repository", help="where to clone the code from, if not its origin")
    parser.add_argument("--code", type=Path, help="a folder with the code, to be used as it is")
    parser.add_argument(
        "--any-environment", action="store_true", help="go on where packages differ"
    )
    parser.add_argument("--train", metavar="MODULE:FUNCTION", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    run = json.loads((HERE / "run.json").read_text(encoding="utf-8"))
    if asked.train:
        _train(run, asked.train)
        return SAME
    try:
        _check_environment(run, go_on=asked.any_environment)
        code = _code(run, asked.code, asked.repository)
        name = asked.name or f"{run['name']}-again"
        _start(run, name, code)
        return _compare(run, name)
    except CannotError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE


def _check_environment(run: Mapping[str, Any], *, go_on: bool) -> None:
    there: dict[str, str] = {}
    for one in distributions():
        name, version = one.metadata["Name"], one.metadata["Version"]
        if name and version:
            there.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    differ = [
        f"{name} {version} was {there.get(name) or 'absent'}"
        for line in (HERE / "requirements.lock").read_text(encoding="utf-8").splitlines()
        for name, _, version in [line.partition("==")]
        if there.get(name) != version
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    if run["python"] not in {None, python}:
        differ.insert(0, f"Python {run['python']} is {python}")
    if not differ:
        return
    shown = "; ".join(differ[:5]) + ("; …" if len(differ) > 5 else "")  # noqa: PLR2004 (a line)
    if not go_on:
        raise CannotError(
            f"{len(differ)} parts of the environment differ ({shown}); run "
            "`pip install -r requirements.lock` in a new environment, or pass --any-environment."
        )
    sys.stderr.write(f"note: {len(differ)} parts of the environment differ: {shown}\n")


def _code(run: Mapping[str, Any], folder: Path | None, repository: str | None) -> Path:
    """Return the folder of the run's code, cloned and changed as it was."""
    if folder is not None:
        return folder.resolve()
    code = run["code"]
    source = repository or run["repository"]
    if not code.get("commit"):
        raise CannotError("no commit was recorded; pass the folder of the code as --code.")
    if not source:
        raise CannotError("no origin was recorded; pass where to clone from as --repository.")
    if code.get("omitted"):
        sys.stderr.write(f"note: changes of {', '.join(code['omitted'])} were not recorded\n")
    clone = HERE / "code"
    if clone.exists():
        raise CannotError(f"{clone} is there already; remove it, or pass it as --code.")
    elsewhere = "Pass a repository as --repository, or a folder with the code as --code"
    diff = HERE / "code.diff"
    why = f"the repository {source} cannot be cloned"
    try:
        _git("clone", "--quiet", "--no-checkout", "--", str(source), str(clone))
        why = f"the commit {code['commit'][:12]} is not in {source}, or was never pushed to it"
        _git("-C", str(clone), "checkout", "--quiet", "--detach", code["commit"])
        if diff.is_file():
            why = f"the recorded change {diff.name} does not apply"
            _git("-C", str(clone), "apply", "--binary", str(diff))
    except CannotError as error:
        # What is half there would stand in the way of the next attempt.
        shutil.rmtree(clone, ignore_errors=True)
        raise CannotError(f"{why}. {elsewhere} ({error})") from error
    return clone


def _git(*words: str) -> None:
    done = subprocess.run(  # noqa: S603 (what is run was recorded, or is said by the caller)
        ["git", *words],  # noqa: S607 (Git is wherever the user has it)
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotError(f"git {' '.join(words)}: {done.stderr.strip()}")


def _start(run: Mapping[str, Any], name: str, code: Path) -> None:
    """Train in a process of its own, with the recorded seeds and numbers of threads."""
    entry = run["code"].get("entry_point")
    if not entry:
        raise CannotError("no entry point was recorded: nothing says what to start.")
    again = HERE / "again.json"
    again.write_text(json.dumps({**run, "again": name}), encoding="utf-8")
    variables = {name: str(count) for name, count in run["threads"].items() if name.isupper()}
    if "PYTHONHASHSEED" in run["seeds"]:
        variables["PYTHONHASHSEED"] = str(run["seeds"]["PYTHONHASHSEED"])
    module = ":" in entry
    place = _package(code, entry.partition(":")[0]) if module else code
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "ARTIFACT_PIPELINES_REPEAT": str(again),
    }
    words = [str(Path(__file__).resolve()), "--train", entry] if module else [str(code / entry)]
    done = subprocess.run(  # noqa: S603 (the recorded trainer is the point)
        [sys.executable, *words], cwd=code, env={**os.environ, **variables}, check=False
    )
    if done.returncode:
        raise CannotError(f"{entry} ended with exit code {done.returncode}; see above.")


def _package(code: Path, module: str) -> Path:
    """Return the folder to import a module from: the one nearest to the top that has it."""
    path = Path(*module.split("."))
    found = sorted(
        {*code.rglob(f"{path}.py"), *code.rglob(f"{path}/__init__.py")},
        key=lambda file: (len(file.parts), file),
    )
    if not found:
        return code
    depth = len(path.parts) + (found[0].name == "__init__.py")
    return found[0].parents[depth - 1]


def _train(run: Mapping[str, Any], entry: str) -> None:
    from artifact_pipelines import start_run

    module, _, name = entry.partition(":")
    function = getattr(importlib.import_module(module), name)
    with start_run(run["project"], run["name"]) as again:
        function(again)


def _compare(run: Mapping[str, Any], name: str) -> int:
    reference = f"{run['project']}/{name}"
    done = subprocess.run(  # noqa: S603 (this project's own command)
        [sys.executable, "-m", "artifact_pipelines.cli", "run", "show", reference, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotError(done.stderr.strip())
    made = {
        one["step"]: one["content_digest"]
        for one in json.loads(done.stdout)["checkpoints"]
        if one["state"] == "live"
    }
    same = True
    for one in run["checkpoints"]:
        found = made.get(one["step"])
        word = "missing" if found is None else "same" if found == one["content"] else "different"
        same &= word == "same"
        sys.stdout.write(f"{reference}@{one['step']}  {word}  {found or ''}\n")
    return SAME if same else DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
