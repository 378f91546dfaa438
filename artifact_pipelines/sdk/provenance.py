"""What a run was trained with: code, packages and machine, taken from the process itself."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GIT_SECONDS = 10

# What changes a training's numbers or its speed; everything else may hold a secret.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
)
_SECRET = re.compile(
    r"(?i)(-{0,2}[\w.-]*(?:token|secret|passw|credential|api[_-]?key)[\w.-]*)(=.*)?"
)


def main_file() -> Path | None:
    """Return the script that this process was started with, if it was."""
    found = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if found is None else Path(found)


def code_of(file: Path | None, entry_point: str | None) -> dict[str, Any]:
    """Return the commit, whether it was changed, and the entry point, as far as known."""
    for folder in ([] if file is None else [file.absolute().parent]) + [Path.cwd()]:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is not None:
            break
    else:
        name = entry_point or (None if file is None else file.name)
        return {} if name is None else {"entry_point": name}
    root = Path(top.rstrip("\n"))
    code: dict[str, Any] = {}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is not None:
        code["commit"] = commit.strip()
    status = _git(root, "status", "--porcelain", "-z", "--untracked-files=all")
    if status is not None:
        # A file that is not tracked matters when Python could import it.
        code["dirty"] = any(
            line.endswith(".py") or not line.startswith("?? ")
            for line in status.split("\0")
            if line
        )
    if entry_point is not None:
        code["entry_point"] = entry_point
    elif file is not None:
        resolved = file.resolve()
        inside = resolved.is_relative_to(root.resolve())
        # A path outside the repository says where somebody's home is.
        code["entry_point"] = (
            resolved.relative_to(root.resolve()).as_posix() if inside else file.name
        )
    return code


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what Git says, or None where it cannot say anything."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 (every argument is ours)
            ["git", *arguments],  # noqa: S607 (Git is wherever the user has it)
            cwd=folder,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            check=False,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def environment() -> bytes:
    """Return the installed distributions, one `name==version` a line."""
    from importlib.metadata import distributions

    found = set()
    for distribution in distributions():
        # A removed distribution can leave a folder without metadata behind.
        name = distribution.metadata["Name"]
        if name:
            plain = re.sub(r"[-_.]+", "-", name).lower()
            found.add(f"{plain}=={distribution.version}\n")
    return "".join(sorted(found)).encode()


def surroundings() -> dict[str, Any]:
    """Return where this process runs, for the annex."""
    import getpass
    import platform

    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):
        user = str(os.getuid())
    return {
        "host": platform.node(),
        "user": user,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "argv": _without_secrets(sys.argv),
        "variables": {key: os.environ[key] for key in _VARIABLES if key in os.environ},
    }


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    shown: list[str] = []
    hide = False
    for argument in arguments:
        found = _SECRET.fullmatch(argument)
        if found is None:
            shown.append("…" if hide else argument)
            hide = False
        else:
            shown.append(found[1] + ("=…" if found[2] else ""))
            hide = found[2] is None and argument.startswith("-")
    # Text that is no UTF-8 arrives as lone surrogates, which no JSON carries.
    return [text.encode("utf-8", "replace").decode() for text in shown]
