"""What a run was trained with: code, packages and seeds, taken from the process itself."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODE_DIFF = "code.diff"
"""The file of a run that holds what its code had beyond the commit, for `git apply`."""

_GIT_SECONDS = 10
_LARGEST_FILE = 2**20  # a changed file beyond this is data, not code
_LARGEST_DIFF = 8 * 2**20
_MOST_OMITTED = 50
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
# A name that says that the file holds a secret keeps it out, wherever it is.
_SECRET_FILES = (".env*", "*.pem", "*.key", "*secret*", "*credential*", "*password*", "id_rsa*")
_SEED = re.compile(r"(.*_)?seed")


@dataclass(frozen=True, slots=True)
class Code:
    """The code that a run was trained with.

    Attributes:
        facts: What the record says: commit, whether it was changed, entry point.
        diff: What was changed since the commit, for `git apply`; nothing where it is clean.
        origin: Where the repository came from, without who asked for it.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    diff: bytes | None = None
    origin: str | None = None


def main_file() -> Path | None:
    """Return the script that this process was started with, if it was."""
    found = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if found is None else Path(found)


def code_of(file: Path | None, entry_point: str | None) -> Code:
    """Return the commit, what was changed since, and the entry point, as far as known."""
    for folder in ([] if file is None else [file.absolute().parent]) + [Path.cwd()]:
        said = _git(folder, "rev-parse", "--show-toplevel", "--is-shallow-repository")
        if said is not None:
            break
    else:
        name = entry_point or (None if file is None else file.name)
        return Code({} if name is None else {"entry_point": name})
    top, _, shallow = said.decode(errors="surrogateescape").rstrip("\n").rpartition("\n")
    root = Path(top)
    code: dict[str, Any] = {}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is not None:
        code["commit"] = commit.decode().strip()
    if shallow == "true":
        code["shallow"] = True
    changed = _changed(root)
    diff = None
    if changed is not None:
        code["dirty"] = bool(changed)
        if changed and commit is not None:
            diff, omitted = _diff(root, changed)
            if diff:
                code["diff"] = CODE_DIFF
            if omitted:
                code["omitted"] = omitted[:_MOST_OMITTED]
    entry_point = entry_point or _place(file, root)
    if entry_point is not None:
        code["entry_point"] = entry_point
    origin = _git(root, "config", "--get", "remote.origin.url")
    shown = None if origin is None else _USERINFO.sub("", origin.decode(errors="replace").strip())
    return Code(code, diff or None, shown)


def _place(file: Path | None, root: Path) -> str | None:
    """Return where a script is in a repository; outside, a path says where somebody's home is."""
    if file is None:
        return None
    resolved, top = file.resolve(), root.resolve()
    return resolved.relative_to(top).as_posix() if resolved.is_relative_to(top) else file.name


def _changed(root: Path) -> dict[str, bool] | None:
    """Return the changed files by path, and whether Git tracks each; None where Git says nothing.

    A file that is not tracked matters when Python could import it.
    """
    status = _git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    if status is None:
        return None
    found = {}
    for line in status.decode(errors="surrogateescape").split("\0"):
        state, path = line[:2], line[3:]
        if path and (state != "??" or path.endswith(".py")):
            found[path] = state != "??"
    return found


def _diff(root: Path, changed: Mapping[str, bool]) -> tuple[bytes, list[str]]:
    """Return what was changed, and the files that are too large or too secret to be in it."""
    kept: list[str] = []
    omitted: list[str] = []
    for path in sorted(changed):
        file = root / path
        try:
            size = file.lstat().st_size
        except OSError:
            size = 0  # it was deleted
        name = path.rpartition("/")[2].lower()
        secret = any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_FILES)
        (omitted if secret or size > _LARGEST_FILE else kept).append(path)
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own, so that files that are not tracked can be compared too.
        index = Path(folder) / "index"
        where = _git(root, "rev-parse", "--git-path", "index")
        if where is not None:
            found = root / where.decode(errors="surrogateescape").strip()
            if found.is_file():
                shutil.copyfile(found, index)
        own = {"GIT_INDEX_FILE": str(index)}
        new = [path for path in kept if not changed[path]]
        if new:
            _git(root, "add", "--intent-to-add", "--", *_literal(new), variables=own)
        command = ("diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", "--")
        diff = _git(root, *command, *_literal(kept), variables=own) if kept else b""
    if diff is None or len(diff) > _LARGEST_DIFF:
        return b"", [_shown(path) for path in sorted(changed)]
    return diff, [_shown(path) for path in omitted]


def _literal(paths: Sequence[str]) -> list[str]:
    return [f":(top,literal){path}" for path in paths]


def _shown(path: str) -> str:
    return path.encode("utf-8", "replace").decode()


def _git(folder: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> bytes | None:
    """Return what Git says, or None where it cannot say anything."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 (every argument is ours)
            ["git", *arguments],  # noqa: S607 (Git is wherever the user has it)
            cwd=folder,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", **(variables or {})},
            capture_output=True,
            check=False,
            timeout=_GIT_SECONDS,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Return the version of each installed distribution, by its normal name."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for distribution in distributions():
        # A removed distribution can leave a folder without metadata behind.
        metadata = distribution.metadata
        name, version = metadata["Name"], metadata["Version"]
        if name and version:
            # The first on the path is the one that is imported.
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return dict(sorted(found.items()))


def lock_file(installed: Mapping[str, str]) -> bytes:
    """Return distributions as a file for pip, one `name==version` a line."""
    return "".join(sorted(f"{name}=={version}\n" for name, version in installed.items())).encode()


def seeds_of(params: Mapping[str, Any], given: Mapping[str, int]) -> dict[str, int]:
    """Return the seeds that are known: those given, parameters so called, and the process's own."""
    found = {
        name: value
        for name, value in params.items()
        if _SEED.fullmatch(name) and isinstance(value, int) and not isinstance(value, bool)
    }
    hashes = os.environ.get("PYTHONHASHSEED", "")
    if hashes.isdigit():
        found["PYTHONHASHSEED"] = int(hashes)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "initial_seed"):
        found["torch"] = int(torch.initial_seed())
    return {**found, **given}
