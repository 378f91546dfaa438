"""The names that may be used, and the references that are written with them."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from artifact_pipelines.errors import InvalidNameError

MAX_NAME = 128
MAX_PATH = 1024
MAX_PART = 255
MIN_PREFIX = 6

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"v[0-9]+")
_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")
_LATEST = "latest"
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", _LATEST}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)


def check_project(name: str) -> str:
    """Return a project name that may be used.

    Raises:
        InvalidNameError: It may not.
    """
    return _check("project", name)


def check_dataset(name: str) -> str:
    """Return a dataset name that may be used.

    Raises:
        InvalidNameError: It may not.
    """
    return _check_unversioned("dataset", name)


def check_run(name: str) -> str:
    """Return a run name that may be used.

    Raises:
        InvalidNameError: It may not.
    """
    return _check_unversioned("run", name)


def check_stage(name: str) -> str:
    """Return a stage name that may be used.

    Raises:
        InvalidNameError: It may not.
    """
    return _check("stage", name)


def check_paths(paths: Iterable[str]) -> None:
    """Refuse a set of file paths that no file system could hold everywhere alike.

    Raises:
        InvalidNameError: A path is absolute, leaves its folder, is spelt in a way that
            another system would change, or collides with another path of the set.
    """
    seen: dict[str, str] = {}
    for path in paths:
        _check_path(path)
        folded = path.casefold()
        if folded in seen:
            raise InvalidNameError(
                f"the paths {seen[folded]!r} and {path!r} are one file on some systems; rename one."
            )
        seen[folded] = path
    for folded, path in seen.items():
        for parent in PurePosixPath(folded).parents:
            if str(parent) in seen:
                raise InvalidNameError(
                    f"the path {seen[str(parent)]!r} is a file and a folder of {path!r}; rename one."
                )


@dataclass(frozen=True, slots=True)
class StageRef:
    """What a stage points at: `digits@production`."""

    project: str
    stage: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}@{self.stage}"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by its number: `digits/v3`."""

    project: str
    version: int

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/v{self.version}"


@dataclass(frozen=True, slots=True)
class NumberedRef:
    """A checkpoint by its step or a dataset by its version: `digits/run-0007@120`."""

    project: str
    name: str
    number: int | Literal["latest"]

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class NameRef:
    """A training run: `digits/run-0007`."""

    project: str
    name: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/{self.name}"


@dataclass(frozen=True, slots=True)
class DigestRef:
    """An artifact by the first digits of its id or content digest."""

    prefix: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return self.prefix


Reference = StageRef | ModelRef | NumberedRef | NameRef | DigestRef


def parse(text: str) -> Reference:
    """Return the reference that a text writes.

    Raises:
        InvalidNameError: The text is none.
    """
    head, slash, rest = text.partition("/")
    if not slash:
        project, at, stage = text.partition("@")
        if at:
            return StageRef(check_project(project), check_stage(stage))
        if _PREFIX.fullmatch(text):
            return DigestRef(text)
        raise InvalidNameError(
            f"{text!r} is not a reference; write digits@production, digits/v3, digits/run-1@120, "
            f"digits/images@2, or at least {MIN_PREFIX} digits of a digest."
        )
    check_project(head)
    name, at, number = rest.partition("@")
    if not at:
        if _VERSION.fullmatch(name) and str(int(name[1:])) == name[1:]:
            return ModelRef(head, int(name[1:]))
        return NameRef(head, check_run(name))
    check_run(name)
    if number == _LATEST:
        return NumberedRef(head, name, _LATEST)
    if not number.isdecimal() or not number.isascii() or str(int(number)) != number:
        raise InvalidNameError(f"{text!r} must end in a number or in @{_LATEST}.")
    return NumberedRef(head, name, int(number))


def _check(what: str, name: str) -> str:
    if len(name) > MAX_NAME:
        raise InvalidNameError(f"the {what} name {name[:20]!r}… is longer than {MAX_NAME} characters.")
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise InvalidNameError(
            f"the {what} name {name!r} is not allowed; use letters, digits, '.', '_' and '-', "
            "begin with a letter or digit, and put no two dots together."
        )
    if name.casefold() in _RESERVED:
        raise InvalidNameError(f"the {what} name {name!r} is reserved; choose another.")
    return name


def _check_unversioned(what: str, name: str) -> str:
    if _VERSION.fullmatch(name):
        raise InvalidNameError(f"the {what} name {name!r} reads as a model's number; choose another.")
    return _check(what, name)


def _check_path(path: str) -> None:
    reason = None
    parts = path.split("/")
    if not path or len(path) > MAX_PATH:
        reason = f"must have 1 to {MAX_PATH} characters"
    elif any(not 0 < len(part.encode(errors="replace")) <= MAX_PART for part in parts):
        reason = f"has an empty part or one of more than {MAX_PART} bytes"
    elif "\\" in path or any(unicodedata.category(char) in {"Cc", "Cs"} for char in path):
        reason = "holds a backslash or a control character"
    elif any(part in {".", ".."} for part in parts):
        reason = "must stay inside its folder"
    elif re.match(r"[A-Za-z]:", path):
        reason = "must be relative"
    elif unicodedata.normalize("NFC", path) != path:
        reason = "is not in Unicode form NFC"
    if reason is not None:
        raise InvalidNameError(f"the file path {path[:80]!r} {reason}.")
