"""Records: what an artifact is and what it was made from, fixed when it came to be."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError

FORMAT: Final = "artifact-pipelines/record/v1"

_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}(:[A-Za-z0-9][A-Za-z0-9._/-]{0,255})?")
_FIELDS: Final = frozenset(
    {
        "format",
        "kind",
        "project",
        "name",
        "content",
        "inputs",
        "run",
        "step",
        "attempt",
        "params",
        "code",
        "lock",
        "nonce",
        "facts",
    }
)
_NON_FINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_NONCE: Final = re.compile(r"[!-~]{1,128}")


class Kind(StrEnum):
    """The kinds of artifact."""

    DATASET = "dataset"
    TRAINING_RUN = "training_run"
    CHECKPOINT = "checkpoint"
    MODEL = "model"


@dataclass(frozen=True, slots=True, order=True)
class Input:
    """An artifact that another one was made from.

    Attributes:
        role: What it was used as: `dataset:images`, `resume`, `parent`, `checkpoint`,
            `evaluation:images`.
        id: Its artifact id.
    """

    role: str
    id: str

    def __post_init__(self) -> None:
        """Refuse what a record may not cite."""
        if not naming.matches(_ROLE, self.role):
            raise InvalidFormatError(
                f"input role {self.role!r} must be a lowercase word, with a name after ':' if any."
            )
        digest.check_sha256(self.id, f"the id of input {self.role!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What an artifact is and what it was made from; its SHA-256 is the artifact id.

    Two records are equal when their bytes are.

    Attributes:
        kind: What the artifact is.
        project: The project that it belongs to.
        name: The dataset's name; of a training run or checkpoint, the run's; of a model, the
            project's.
        content: The digest of its manifest.
        inputs: The artifacts that it was made from, by role and id.
        run: The training run that made it, by artifact id; checkpoints only.
        step: The training step of a checkpoint.
        attempt: Which try it is at the same name and step, from 1.
        params: The parameters that it was made with.
        code: The code that made it.
        lock: The digest of the locked environment.
        nonce: What makes a training run unlike another with the same inputs.
        facts: What else is fixed, by kind: rows and schema of a dataset, metrics and epoch of
            a checkpoint, signature of a model.
    """

    kind: Kind
    project: str
    name: str
    content: str
    inputs: tuple[Input, ...] = ()
    run: str | None = None
    step: int | None = None
    attempt: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    lock: str | None = None
    nonce: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    _encoded: bytes = field(init=False, repr=False)
    _id: str = field(init=False, repr=False, default="")
    # Not a field, so that `dataclasses.replace` does not carry old bytes over.
    stored: InitVar[bytes | None] = None

    def __post_init__(self, stored: bytes | None) -> None:
        """Put the inputs in order and refuse what no record may say."""
        object.__setattr__(self, "kind", _kind(self.kind))
        object.__setattr__(self, "inputs", _ordered(self.inputs))
        encoded = stored or digest.canonical(self._document())
        object.__setattr__(self, "_encoded", encoded)
        if stored is None:
            # What was passed in may change later, and may hold what JSON writes otherwise.
            parsed = digest.parse(encoded)
            for name in ("params", "code", "facts"):
                object.__setattr__(self, name, parsed[name])
        self._check()

    def _document(self) -> dict[str, Any]:
        """Return the JSON form of the record."""
        return {
            "format": FORMAT,
            "kind": self.kind.value,
            "project": self.project,
            "name": self.name,
            "content": self.content,
            "inputs": [{"id": cited.id, "role": cited.role} for cited in self.inputs],
            "run": self.run,
            "step": self.step,
            "attempt": self.attempt,
            "params": self.params,
            "code": self.code,
            "lock": self.lock,
            "nonce": self.nonce,
            "facts": self.facts,
        }

    def _check(self) -> None:
        """Refuse what no record of this kind may say."""
        for name in ("params", "code", "facts"):
            if not isinstance(getattr(self, name), dict):
                raise InvalidFormatError(f"a record's {name} must be a mapping.")
        naming.check_project(self.project)
        digest.check_sha256(self.content, "the content of a record")
        if self.lock is not None:
            digest.check_sha256(self.lock, "the lock of a record")
        if type(self.attempt) is not int or not 1 <= self.attempt <= digest.MAX_INTEGER:
            raise InvalidFormatError(f"a record's attempt must count from 1, not {self.attempt!r}.")
        if self.nonce is not None and (
            self.kind is not Kind.TRAINING_RUN or not naming.matches(_NONCE, self.nonce)
        ):
            raise InvalidFormatError(
                "only a training run may have a nonce, 1 to 128 visible ASCII characters."
            )
        if self.kind is Kind.CHECKPOINT:
            digest.check_sha256(self.run, "the run of a checkpoint")
            if type(self.step) is not int or not 0 <= self.step <= digest.MAX_INTEGER:
                raise InvalidFormatError(f"a checkpoint's step must count from 0: {self.step!r}.")
        elif self.run is not None or self.step is not None:
            raise InvalidFormatError(f"a {self.kind} has no run and no step: cite it as an input.")
        self._check_name()
        metrics = self.facts.get("metrics", {})
        if not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
            raise InvalidFormatError("a record's metrics must be numbers by name.")

    def _check_name(self) -> None:
        """Refuse a name that this kind may not have."""
        match self.kind:
            case Kind.DATASET:
                naming.check_dataset(self.name)
            case Kind.TRAINING_RUN | Kind.CHECKPOINT:
                naming.check_run(self.name)
            case Kind.MODEL:
                if self.name != self.project:
                    raise InvalidFormatError("a model's name must be its project's.")
                if [cited.role for cited in self.inputs].count("checkpoint") != 1:
                    raise InvalidFormatError("a model must have one input of role 'checkpoint'.")

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a record of the same bytes."""
        return isinstance(other, Record) and self._encoded == other._encoded

    def __hash__(self) -> int:
        """Return a hash of the bytes."""
        return hash(self._encoded)

    @property
    def id(self) -> str:
        """Return the artifact id."""
        # A record may be large, and its id is asked for with every row about it.
        if not self._id:
            object.__setattr__(self, "_id", digest.sha256(self._encoded))
        return self._id

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics among the facts, non-finite ones as floats again."""
        return {name: float(value) for name, value in self.facts.get("metrics", {}).items()}

    def encode(self) -> bytes:
        """Return the bytes behind the artifact id."""
        return self._encoded

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the record that bytes hold, with these bytes behind its id.

        Raises:
            InvalidFormatError: If they are no record.
            InvalidNameError: If the record holds a name that may not be.
        """
        document = digest.parse(data)
        if document.pop("format", None) != FORMAT or document.keys() | {"format"} != _FIELDS:
            raise InvalidFormatError(f"a record must be of format {FORMAT!r}.")
        listed = document.pop("inputs")
        if not isinstance(listed, list):
            raise InvalidFormatError("a record must list its inputs.")
        inputs = [_input(item) for item in listed]
        if inputs != sorted(inputs):
            raise InvalidFormatError("a record must list its inputs by role and id.")
        return cls(inputs=tuple(inputs), **document, stored=data)


def _kind(value: str) -> Kind:
    """Return the kind that a value names."""
    try:
        return Kind(value)
    except ValueError:
        raise InvalidFormatError(f"{value!r} is no kind of artifact.") from None


def _ordered(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Return inputs by role and id, each once."""
    ordered = tuple(sorted(inputs))
    if len(set(ordered)) != len(ordered):
        raise InvalidFormatError("a record may cite an input once in each role.")
    return ordered


def _input(item: object) -> Input:
    """Return the input that a record's item describes."""
    if not isinstance(item, dict) or item.keys() != {"id", "role"}:
        raise InvalidFormatError("an input of a record must have an id and a role.")
    return Input(**item)


def _is_number(value: object) -> bool:
    """Return whether a value stands for a number."""
    if isinstance(value, str):
        return value in _NON_FINITE
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
