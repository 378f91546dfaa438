"""What an artifact is and what it was made from; the digest of the record is its id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError

FORMAT = "artifact-pipelines/record/v1"


class Kind(StrEnum):
    """The kinds of artifact."""

    DATASET = "dataset"
    TRAINING_RUN = "training_run"
    CHECKPOINT = "checkpoint"
    MODEL = "model"


@dataclass(frozen=True, slots=True, order=True)
class Input:
    """Something that an artifact was made from.

    Attributes:
        role: What it was used as: `dataset:images`, `parent`, `resume`, `checkpoint`.
        id: The artifact id.
    """

    role: str
    id: str


@dataclass(frozen=True, slots=True)
class Record:
    """What was fixed about an artifact when it came to be.

    Attributes:
        kind: The kind of artifact.
        project: Its project.
        name: The dataset's, run's or project's name.
        content: The content digest.
        inputs: What it was made from, ordered.
        run: The id of the training run that made it.
        step: The training step of a checkpoint.
        attempt: 1, or more where other content was registered on purpose under one identity.
        params: Parameters of a run.
        code: Where the code of a run came from.
        lock: The SHA-256 of the installed packages of a run.
        nonce: Random text that tells one run from another of the same name and parameters.
        facts: What else the kind fixes: rows, schema, metrics, optimizer, signature.
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

    def __post_init__(self) -> None:
        """Put the inputs in order and refuse what no record can say."""
        naming.check_project(self.project)
        naming.check_project(self.name)
        if self.attempt < 1 or (self.step is not None and self.step < 0):
            raise InvalidFormatError("a record's step is at least 0 and its attempt at least 1.")
        if (self.kind is Kind.CHECKPOINT) != (self.step is not None):
            raise InvalidFormatError("a checkpoint has a step, and nothing else has.")
        object.__setattr__(self, "inputs", tuple(sorted(set(self.inputs))))

    @property
    def id(self) -> str:
        """The artifact id: the SHA-256 of the record's bytes."""
        return digest.sha256(self.encode())

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return digest.canonical(
            {
                "format": FORMAT,
                "kind": self.kind,
                "project": self.project,
                "name": self.name,
                "content": self.content,
                "inputs": [{"role": item.role, "id": item.id} for item in self.inputs],
                "run": self.run,
                "step": self.step,
                "attempt": self.attempt,
                "params": self.params,
                "code": self.code,
                "lock": self.lock,
                "nonce": self.nonce,
                "facts": self.facts,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """Return the record that the bytes hold.

        Raises:
            InvalidFormatError: The bytes are no record of this format.
        """
        found = digest.parse(data)
        if found.pop("format", None) != FORMAT:
            raise InvalidFormatError("these bytes are not a record of a format known here.")
        try:
            kind = Kind(found.pop("kind"))
            inputs = tuple(Input(item["role"], item["id"]) for item in found.pop("inputs"))
            record = cls(kind=kind, inputs=inputs, **found)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFormatError(f"a record is malformed: {error}.") from error
        if record.encode() != data:
            raise InvalidFormatError("a record is not in canonical form.")
        return record
