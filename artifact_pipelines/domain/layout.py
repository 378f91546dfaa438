"""The layouts in which other tools leave checkpoints, and when one of them is complete."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Read = Callable[[str], bytes]

_HUGGING_FACE: Final = re.compile(r"checkpoint-([0-9]+)")
_LIGHTNING: Final = re.compile(r"(?:.*[-_])?step=([0-9]+)(?:-v[0-9]+)?\.ckpt")
_LAST_NUMBER: Final = re.compile(r".*?([0-9]+)")
_TEMPORARY: Final = re.compile(r"\.orbax-checkpoint-tmp|\.tmp$|\.part$|^\.|~$")


@dataclass(frozen=True, slots=True)
class Layout:
    """A drop as it was recognised.

    Attributes:
        kind: `huggingface`, `lightning`, `orbax`, `dcp`, `safetensors`, or nothing.
        step: Its step.
        epoch: Its epoch, where it says so.
        metrics: Its metrics, where it has some.
        made_from: References by role, where it says what it was made from.
        waits: Why it is not complete yet, or nothing.
        wrong: Why it never will be, or nothing.
    """

    kind: str | None
    step: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    made_from: Sequence[tuple[str, str]] = ()
    waits: str | None = None
    wrong: str | None = None

    @property
    def complete(self) -> bool:
        """Whether it can be imported."""
        return self.kind is not None and not self.waits and not self.wrong


def recognise(name: str, files: Mapping[str, int], read: Read) -> Layout:  # noqa: PLR0911 (a layout each)
    """Return what a drop is.

    Args:
        name: The name of its folder, or of its only file.
        files: Its files and their sizes; one file is called by the drop's name.
        read: Returns the bytes of a small file.
    """
    if _TEMPORARY.search(name):
        return Layout(None, waits="its name says that it is still being written")
    if name in files and name.endswith(".ckpt"):
        return _lightning(name)
    if name in files and name.endswith(".safetensors"):
        return _safetensors(name, files, read)
    if "_CHECKPOINT_METADATA" in files:
        return _numbered("orbax", name, files, "_CHECKPOINT_METADATA")
    if ".metadata" in files or any(path.endswith(".distcp") for path in files):
        if ".metadata" not in files:
            return Layout("dcp", waits="it has no .metadata yet, which is written last")
        return _numbered("dcp", name, files, ".metadata")
    found = _HUGGING_FACE.fullmatch(name)
    if found is not None:
        return _hugging_face(int(found[1]), files, read)
    return Layout(None, wrong="it has none of the layouts that are known here")


def _lightning(name: str) -> Layout:
    found = _LIGHTNING.fullmatch(name)
    if found is None:
        return Layout("lightning", wrong="its name has no step; write epoch=1-step=20.ckpt")
    return Layout("lightning", int(found[1]))


def _numbered(kind: str, name: str, files: Mapping[str, int], marker: str) -> Layout:
    found = _LAST_NUMBER.fullmatch(name)
    if found is None:
        return Layout(kind, wrong="its name does not end with its step")
    if not files[marker]:
        return Layout(kind, waits=f"its {marker} is still empty")
    return Layout(kind, int(found[1]))


def _safetensors(name: str, files: Mapping[str, int], read: Read) -> Layout:
    note = f"{name.removesuffix('.safetensors')}.json"
    if note not in files:
        return Layout("safetensors", waits=f"{note} with its step is not there yet")
    said = _object(read(note))
    step = None if said is None else said.get("step")
    if said is None or type(step) is not int or step < 0:
        return Layout("safetensors", wrong=f"{note} must be an object with a whole number, step")
    metrics = said.get("metrics", {})
    if not isinstance(metrics, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in metrics.values()
    ):
        return Layout("safetensors", wrong=f"the metrics in {note} must be numbers by name")
    parent, datasets = said.get("parent"), said.get("datasets", [])
    if not isinstance(parent, str | None) or not (
        isinstance(datasets, list) and all(isinstance(one, str) for one in datasets)
    ):
        return Layout(
            "safetensors",
            wrong=f"parent in {note} must be a reference, and datasets a list of references",
        )
    made_from = [("parent", parent)] if parent else []
    made_from += [("dataset", reference) for reference in datasets]
    epoch = said.get("epoch")
    known = epoch if isinstance(epoch, int | float) else None
    return Layout("safetensors", step, known, metrics, made_from)


def _hugging_face(step: int, files: Mapping[str, int], read: Read) -> Layout:
    kind = "huggingface"
    if "trainer_state.json" not in files:
        return Layout(kind, waits="it has no trainer_state.json yet")
    state = _object(read("trainer_state.json"))
    if state is None:
        return Layout(kind, waits="its trainer_state.json is not whole yet")
    if state.get("global_step") != step:
        return Layout(
            kind, wrong=f"its name says step {step}, and its state {state.get('global_step')!r}"
        )
    whole = {"model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"}
    if "model.safetensors.index.json" in files:
        index = _object(read("model.safetensors.index.json"))
        shards = set((index or {}).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if shard not in files)
        if index is None or not shards or missing:
            return Layout(kind, waits=f"{len(missing) or 'all'} shards of its weights are missing")
    elif not whole & files.keys():
        return Layout(kind, waits="its weights are not there yet")
    metrics: dict[str, float] = {}
    for entry in state.get("log_history", []):
        metrics |= {
            name: float(value)
            for name, value in entry.items()
            if isinstance(value, int | float) and name not in {"step", "epoch"}
        }
    epoch = state.get("epoch")
    return Layout(kind, step, epoch if isinstance(epoch, int | float) else None, metrics)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
