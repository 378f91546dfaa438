"""What a gate may look at: one model's files, the data and models around it, and a sandbox."""

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.domain.lineage import Ancestry
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.schema import Layout
from artifact_pipelines.errors import SandboxError
from artifact_pipelines.gates.sandbox import Sandbox

T = TypeVar("T")

TABLES: Final = ("pandas", "pyarrow.parquet")


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of the evaluation data that share one value of a column.

    Attributes:
        rows: How many they are.
        metrics: What was measured on them.
        index: Which rows they are, where rows have scores of their own.
    """

    rows: int
    metrics: Mapping[str, Any]
    index: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a project's evaluation function said of one model.

    Attributes:
        metrics: Its figures.
        examples: The figures of every single row, for those metrics that are their mean.
        slices: By column and value.
    """

    metrics: Mapping[str, Any]
    examples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Slice]] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Measured":
        """Return what a sandbox answered."""
        return cls(
            metrics=answer["metrics"],
            examples={name: floats(text) for name, text in answer["examples"].items()},
            slices={
                column: {value: Slice(**found) for value, found in values.items()}
                for column, values in answer["slices"].items()
            },
        )


@dataclass(frozen=True)
class Case:
    """One model before its gates. What has to be fetched is fetched when a gate asks for it.

    Attributes:
        policy: The rules.
        model: The folder of its files, or None where they are damaged.
        damaged: What is wrong with its bytes.
        digests: The SHA-256 of each file, by its path in the folder.
        evaluation: The folder of the evaluation data, if the policy names any.
        baseline: Returns the folder of the model in production, if there is one.
        dataset: Returns the folder of the dataset of a name that the model was judged on or
            trained on, if there is one.
        ancestry: Returns what the model was made from.
        layout: Returns the layout that `name@version` names, if it is registered.
        sandbox: Where the project's own code runs.
        seen: The datasets that the model was trained on although they hold the evaluation data.
    """

    policy: Policy
    model: Path | None
    damaged: tuple[str, ...]
    digests: Mapping[str, str]
    evaluation: Path | None
    baseline: Callable[[], Path | None]
    dataset: Callable[[str], Path | None]
    ancestry: Callable[[], Ancestry]
    layout: Callable[[str], Layout]
    sandbox: Sandbox
    seen: tuple[str, ...] = ()

    @property
    def files(self) -> Path:
        """The folder of the model's files, which are whole."""
        if self.model is None:
            raise ValueError("a gate looked at a model whose bytes are damaged.")
        return self.model

    def mine(self) -> Measured:
        """Return what the model measures on the evaluation data."""
        return self._mine.get()

    def theirs(self) -> Measured | None:
        """Return what the model in production measures on the same data, if there is one."""
        return self._theirs.get()

    @cached_property
    def _mine(self) -> "_Once[Measured]":
        return _Once(lambda: self._measure("the evaluation", self.files))

    @cached_property
    def _theirs(self) -> "_Once[Measured | None]":
        def look() -> Measured | None:
            folder = self.baseline()
            if folder is None:
                return None
            return self._measure("the evaluation of the model in production", folder)

        return _Once(look)

    def _measure(self, who: str, model: Path) -> Measured:
        slices: dict[str, set[str]] = {}
        for gate in self.policy.gates:
            if isinstance(gate, MetricBound | NoWorse) and gate.slice is not None:
                slices.setdefault(gate.slice, set()).add(gate.metric)
        answer = self.sandbox.ask(
            who,
            "measure",
            modules=TABLES,
            function=self.policy.evaluate,
            model=str(model),
            evaluation=str(self.evaluation),
            slices={column: sorted(metrics) for column, metrics in slices.items()},
        )
        return Measured.of(answer)


class _Once(Generic[T]):
    """What is found once, be it an error, for all gates that ask."""

    def __init__(self, find: Callable[[], T]) -> None:
        self._find = find
        self._found: list[T] = []
        self._error: SandboxError | None = None

    def get(self) -> T:
        """Return what was found."""
        if self._error is not None:
            raise SandboxError(str(self._error))
        if not self._found:
            try:
                self._found.append(self._find())
            except SandboxError as error:
                self._error = error
                raise
        return self._found[0]


def packed(values: Any) -> str:  # noqa: ANN401 (an array or a list of numbers)
    """Return numbers as JSON carries them without loss and in little space."""
    numbers = [float(value) for value in values]
    return base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode()


def floats(text: str) -> tuple[float, ...]:
    """Return the numbers that `packed` wrote."""
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 8}d", data)
