"""What is different between runs, and between the tensors of two checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artifact_pipelines.domain.drawing import Arrow, Drawing, Spot
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.tensors import Place, Tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ABSENT = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which runs differ.

    Attributes:
        field: Its dotted name: `params.lr`, `packages.numpy`, `metrics.loss`.
        values: What each run has there, in their order; nothing where it has none.
    """

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TensorChange:
    """What became of one tensor from one checkpoint to another.

    Attributes:
        name: Its name.
        path: The file that holds it.
        change: `same`, `changed`, `reshaped`, `added` or `removed`.
        largest: The greatest difference of an element, where it changed and is numeric.
        relative: The length of the difference, to that of the first tensor.
    """

    name: str
    path: str
    change: str
    largest: float | None = None
    relative: float | None = None


class Differing(Tensors):
    """The registry, as far as it compares and draws."""

    def compare_runs(self, references: Sequence[str]) -> tuple[list[Artifact], list[Difference]]:
        """Return training runs and every field in which they are not alike.

        Raises:
            UnknownArtifactError: A reference names no run.
        """
        found = [self.find(reference) for reference in references]
        for artifact in found:
            if artifact.kind is not Kind.TRAINING_RUN:
                kind = artifact.kind.replace("_", " ")
                raise UnknownArtifactError(
                    f"{artifact.reference} is a {kind}, not a run; write "
                    f"{artifact.project}/run-name."
                )
        sides = [self._fields(artifact) for artifact in found]
        names = sorted({name for side in sides for name in side})
        differences = []
        for name in names:
            values = tuple(side.get(name, _ABSENT) for side in sides)
            if any(value != values[0] for value in values[1:]):
                differences.append(Difference(name, values))
        return found, differences

    def diff(self, first: str, second: str) -> list[TensorChange]:
        """Return what became of each tensor from one artifact to another, by file and name."""
        old = {(place.path, place.name): place for place in self.tensors(first)}
        new = {(place.path, place.name): place for place in self.tensors(second)}
        digests = [
            {entry.path: entry.sha256 for entry in self.files(reference)}
            for reference in (first, second)
        ]
        found = []
        for path, name in sorted(old | new):
            mine, theirs = old.get((path, name)), new.get((path, name))
            if mine is None or theirs is None:
                found.append(TensorChange(name, path, "removed" if theirs is None else "added"))
            elif (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
                found.append(TensorChange(name, path, "reshaped"))
            elif digests[0][path] == digests[1][path]:
                found.append(TensorChange(name, path, "same"))
            else:
                data = [self.read_tensor(each, name, path).data for each in (first, second)]
                found.append(_change(mine, *data))
        return found

    def drawing(self, reference: str, *, down: bool = False) -> Drawing:
        """Return the lineage of an artifact as it is drawn."""
        start = self.find(reference)
        edges = self.lineage(start.id, down=down)
        artifacts = {start.id: start}
        for edge in edges:
            artifacts |= {edge.child.id: edge.child, edge.parent.id: edge.parent}
        spots = {
            one.id: Spot(
                one.id,
                one.reference,
                one.kind.value,
                "recalled" if one.recalled else one.state,
                one.record.run,
            )
            for one in artifacts.values()
        }
        arrows = tuple(Arrow(edge.child.id, edge.parent.id, edge.role, edge.kind) for edge in edges)
        return Drawing(start.id, spots, arrows)

    def _fields(self, run: Artifact) -> dict[str, Any]:
        record = run.record
        view = self.run(run.project, run.name)
        fields: dict[str, Any] = {"state": view.state, "checkpoints": len(view.checkpoints)}
        for group, values in (
            ("params", record.params),
            ("code", record.code),
            ("seeds", record.facts.get("seeds", {})),
            ("threads", record.facts.get("threads", {})),
            ("packages", record.facts.get("packages", {})),
            ("metrics", view.checkpoints[-1].metrics if view.checkpoints else {}),
        ):
            _flatten(group, values, fields)
        for item in record.inputs:
            fields[f"inputs.{item.role}"] = self.get(item.id).reference
        return fields


def _flatten(name: str, value: Any, found: dict[str, Any]) -> None:  # noqa: ANN401 (any JSON)
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, found)
    else:
        found[name] = value


def _change(place: Place, old: bytes, new: bytes) -> TensorChange:
    if old == new:
        return TensorChange(place.name, place.path, "same")
    numbers = [_numbers(place, data) for data in (old, new)]
    if numbers[0] is None or numbers[1] is None:
        return TensorChange(place.name, place.path, "changed")
    import numpy as np  # noqa: PLC0415 (most questions to a registry need none)

    with np.errstate(all="ignore"):
        difference = numbers[1] - numbers[0]
        length = float(np.linalg.norm(numbers[0]))
        largest = float(np.max(np.abs(difference), initial=0.0))
        relative = float(np.linalg.norm(difference)) / length if length else float("inf")
    return TensorChange(place.name, place.path, "changed", largest, relative)


def _numbers(place: Place, data: bytes) -> "NDArray[Any] | None":
    """Return a tensor's numbers in double precision, flat; nothing for a type without them."""
    import numpy as np  # noqa: PLC0415 (as above)

    if place.dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype("f8")
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"}
    kinds |= {f"I{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)}
    kinds |= {f"U{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)}
    kind = kinds.get(place.dtype)
    return None if kind is None else np.frombuffer(data, kind).astype("f8")
