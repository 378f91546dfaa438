"""The names that things may have, and the references that people write."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from artifact_pipelines.errors import InvalidNameError

MAX_PATH_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
CANARY: Final = "canary"
"""The project and name of the dataset that prune plants, which must always be alive."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OWNER: Final = re.compile(r"team:[A-Za-z0-9_.-]+|[^@\s]+@[^@\s]+")
_VERSION: Final = re.compile(r"[vV][0-9]+")
_HEX: Final = re.compile(r"[0-9a-f]{6,64}")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)
# The other assets of a project in the graph, which a dataset's asset would collide with.
_ASSETS: Final = frozenset(
    {
        "archive",
        "candidate",
        "checkpoints",
        "cleanup",
        "development",
        "production",
        "retention_plan",
        "staging",
        "training_run",
    }
)
# The projects of the platform itself.
_RESERVED: Final = frozenset({CANARY, "registry"})
# Characters that reorder text on a screen, so that a path reads as another one.
_REORDERING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def matches(pattern: re.Pattern[str], value: object) -> bool:
    """Return whether a value is a text that a pattern covers from end to end."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def check_project(name: str) -> str:
    """Return a project's name."""
    return _checked(name, "project")


def check_own_project(name: str) -> str:
    """Return the name of a project that is not the platform's own."""
    check_project(name)
    if name.lower() in _RESERVED:
        raise InvalidNameError(f"project name {name!r} is the platform's own; use another.")
    return name


def check_run(name: str) -> str:
    """Return a training run's name."""
    return _unambiguous(name, "run")


def check_dataset(name: str) -> str:
    """Return a dataset's name."""
    _unambiguous(name, "dataset")
    if name.lower() in _ASSETS:
        raise InvalidNameError(
            f"dataset name {name!r} is taken by an asset that every project has; use another."
        )
    return name


def check_schema(name: str) -> str:
    """Return a schema's name."""
    return _checked(name, "schema")


def check_stage(name: str) -> str:
    """Return a stage's name."""
    return _unambiguous(name, "stage")


def check_key(name: str) -> str:
    """Return the name of a signing key, which is that of its file as well."""
    return _unambiguous(name, "key")


def _checked(name: str, what: str) -> str:
    """Return a name that the general rule allows."""
    if not matches(_NAME, name):
        raise InvalidNameError(
            f"{what} name {name!r} must have 1 to 128 characters: ASCII letters, digits,"
            " '.', '_' or '-', the first a letter or digit."
        )
    if ".." in name or name.endswith("."):
        raise InvalidNameError(f"{what} name {name!r} may not hold '..' or end with '.'.")
    if name.partition(".")[0].lower() in _DEVICES:
        raise InvalidNameError(f"{what} name {name!r} is a device on Windows; use another.")
    return name


def _unambiguous(name: str, what: str) -> str:
    """Return a name that does not read as a version."""
    _checked(name, what)
    if name.lower() == "latest" or _VERSION.fullmatch(name) is not None:
        raise InvalidNameError(f"{what} name {name!r} reads as a version; use another.")
    return name


def check_paths(paths: Iterable[str]) -> list[str]:
    """Return the paths of an artifact's files, which any file system can hold side by side.

    Raises:
        InvalidNameError: If a path is absolute, climbs, is not in NFC, is too long or holds a
            character that is not safe to write, or if two paths cannot exist together.
    """
    checked = [_check_path(path) for path in paths]
    seen: dict[str, str] = {}
    for path in checked:
        other = seen.setdefault(_folded(path), path)
        if other is not path:
            raise InvalidNameError(
                f"paths {other!r} and {path!r} are the same file on some file systems."
            )
    if len(seen) != len(checked):
        twice = next(path for path in checked if checked.count(path) > 1)
        raise InvalidNameError(f"path {twice!r} is given twice.")
    for folded, path in seen.items():
        for end, character in enumerate(folded):
            if character == "/" and folded[:end] in seen:
                raise InvalidNameError(
                    f"path {seen[folded[:end]]!r} cannot be a file and the folder of {path!r}."
                )
    return checked


def _check_path(path: str) -> str:
    """Return a path that is safe on its own."""
    _check_characters(path)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidNameError(f"path {path[:40]!r}… is longer than {MAX_PATH_BYTES} bytes.")
    if path.startswith("/") or _DRIVE.match(path):
        raise InvalidNameError(f"path {path!r} must be relative.")
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            raise InvalidNameError(f"path {path!r} may not hold the part {part!r}.")
        if len(part.encode()) > MAX_PART_BYTES:
            raise InvalidNameError(
                f"path {path[:40]!r}… has a part longer than {MAX_PART_BYTES} bytes."
            )
    return path


def _check_characters(path: str) -> None:
    """Refuse a path with a character that is not safe to write."""
    if "\\" in path:
        raise InvalidNameError(f"path {path!r} may not hold a backslash; separate with '/'.")
    for character in path:
        if character in _REORDERING or unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise InvalidNameError(
                f"path {path!r} may not hold the character U+{ord(character):04X}."
            )
    if unicodedata.normalize("NFC", path) != path:
        raise InvalidNameError(f"path {path!r} must be in Unicode normal form NFC.")


def _folded(path: str) -> str:
    """Return what a file system that ignores case and normal form takes a path for."""
    folded = unicodedata.normalize("NFD", path).casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", folded).casefold())


@dataclass(frozen=True, slots=True)
class StageRef:
    """The model that a stage points at: `digits@production`."""

    project: str
    stage: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}@{self.stage}"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A numbered model: `digits/v3`."""

    project: str
    version: int

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/v{self.version}"


@dataclass(frozen=True, slots=True)
class NumberedRef:
    """A checkpoint by step or a dataset by version: `digits/run-0007@120`, `digits/images@latest`."""  # noqa: E501

    project: str
    name: str
    number: int | Literal["latest"]

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class NameRef:
    """A training run or the newest version of a dataset: `digits/run-0007`."""

    project: str
    name: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return f"{self.project}/{self.name}"


@dataclass(frozen=True, slots=True)
class DigestRef:
    """An artifact by the first digits of its id: `3fa9c1`."""

    prefix: str

    def __str__(self) -> str:
        """Return the reference as it is written."""
        return self.prefix


def check_owner(owner: str) -> str:
    """Return who answers for something, as `team:name` or an e-mail address.

    Raises:
        InvalidNameError: It is neither.
    """
    if _OWNER.fullmatch(owner) is None:
        raise InvalidNameError(f"the owner is {owner!r}; expected team:name or an e-mail address.")
    return owner


Reference = StageRef | ModelRef | NumberedRef | NameRef | DigestRef


def parse(text: str) -> Reference:
    """Return the reference that a text writes, so that `str(parse(text)) == text`.

    Raises:
        InvalidNameError: If the text is no reference.
    """
    place, marked, number = text.partition("@")
    project, split, name = place.partition("/")
    if not split:
        if marked:
            return StageRef(check_project(project), check_stage(number))
        if _HEX.fullmatch(text) is None:
            raise _no_reference(text)
        return DigestRef(text)
    check_project(project)
    if not marked:
        if _VERSION.fullmatch(name) is None:
            return NameRef(project, check_run(name))
        if name[0] != "v" or name == "v0" or _NUMBER.fullmatch(name[1:]) is None:
            raise _no_reference(text)
        return ModelRef(project, int(name[1:]))
    check_run(name)
    if number == "latest":
        return NumberedRef(project, name, "latest")
    if _NUMBER.fullmatch(number) is None:
        raise _no_reference(text)
    return NumberedRef(project, name, int(number))


def _no_reference(text: str) -> InvalidNameError:
    """Return the refusal of a text that is no reference."""
    return InvalidNameError(
        f"{text!r} is no reference: write digits@production, digits/v3, digits/run-0007@120,"
        " digits/images@latest, digits/run-0007, or at least 6 hexadecimal digits of an id."
    )
