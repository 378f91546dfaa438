"""How two models differ: figures, parameters, data, code, environment and gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.reading import Artifact

Curve = tuple[tuple[int, float], ...]
"""The values of a metric by step."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two models have, or one of them.

    Attributes:
        name: What it is.
        one: What it is of the first; nothing where that has none.
        two: What it is of the second.
    """

    name: str
    one: Any
    two: Any

    @property
    def differs(self) -> bool:
        """Whether it is not the same."""
        return bool(self.one != self.two)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models side by side.

    Attributes:
        one: The first.
        two: The second.
        metrics: What was measured, by the gates where they did.
        params: The parameters of the trainings.
        data: The datasets, by role.
        code: The code that trained.
        environment: The packages, those that differ.
        gates: What the gates said.
        curves: The metrics of the checkpoints over the steps, of the first and the second.
    """

    one: Artifact
    two: Artifact
    metrics: tuple[Difference, ...]
    params: tuple[Difference, ...]
    data: tuple[Difference, ...]
    code: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    gates: tuple[Difference, ...]
    curves: Mapping[str, tuple[Curve, Curve]]


class Comparing(Promoting):
    """The registry, as far as models are compared."""

    def compare(self, one: str, two: str) -> Comparison:
        """Return how two models or checkpoints differ, of one project or of two.

        Raises:
            UnknownArtifactError: A reference names neither a model nor a checkpoint.
        """
        sides = [self._side(self.find(reference)) for reference in (one, two)]
        first, second = sides
        curves = {
            name: (first.curves.get(name, ()), second.curves.get(name, ()))
            for name in sorted(first.curves.keys() | second.curves.keys())
        }
        return Comparison(
            first.artifact,
            second.artifact,
            _beside(first.metrics, second.metrics),
            _beside(first.params, second.params),
            _beside(first.data, second.data),
            _beside(first.code, second.code),
            tuple(found for found in _beside(first.packages, second.packages) if found.differs),
            _beside(first.gates, second.gates),
            curves,
        )

    def _side(self, artifact: Artifact) -> "_Side":
        if artifact.kind not in {Kind.MODEL, Kind.CHECKPOINT}:
            raise UnknownArtifactError(
                f"{artifact.reference} is neither a model nor a checkpoint, so there is nothing "
                "to compare."
            )
        checkpoint, data = artifact, {}
        for item in artifact.record.inputs:
            if item.role == "checkpoint":
                checkpoint = self.get(item.id)
            else:
                data[item.role] = self.get(item.id).reference
        run = self.get(str(checkpoint.record.run))
        data |= {item.role: self.get(item.id).reference for item in run.record.inputs}
        verdicts = self.verdicts(artifact) if artifact.kind is Kind.MODEL else []
        measured = {
            name: float(value)
            for verdict in verdicts
            for name, value in verdict.values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        points: dict[str, list[tuple[int, float]]] = {}
        for saved in self.checkpoints(run.project, run.name):
            for name, value in saved.metrics.items():
                points.setdefault(name, []).append((saved.step or 0, value))
        return _Side(
            artifact,
            {**artifact.metrics, **measured},
            _plain(run.record.params),
            data,
            _plain(run.record.code),
            _plain(run.record.facts.get("packages") or {}),
            {verdict.gate: "passed" if verdict.passed else "failed" for verdict in verdicts},
            {name: tuple(sorted(found)) for name, found in points.items()},
        )


@dataclass(frozen=True, slots=True)
class _Side:
    """What one side of a comparison has."""

    artifact: Artifact
    metrics: Mapping[str, float]
    params: Mapping[str, Any]
    data: Mapping[str, Any]
    code: Mapping[str, Any]
    packages: Mapping[str, Any]
    gates: Mapping[str, str]
    curves: Mapping[str, Curve]


def _beside(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, one.get(name), two.get(name)) for name in sorted(one.keys() | two.keys())
    )


def _plain(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= _plain(item, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = (
                list(item) if isinstance(item, Sequence) and not isinstance(item, str) else item
            )
    return found
