"""The layouts in which other tools leave checkpoints, and when one of them is complete."""

import json
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Read = Callable[[str], bytes]

MARKER: Final = "_SUCCESS"
"""The name of an empty file that says of a folder that all of it is there."""

_HUGGING_FACE: Final = re.compile(r"checkpoint-([0-9]+)")
_LIGHTNING: Final = re.compile(r"(?:.*[-_])?step=([0-9]+)(?:-v[0-9]+)?\.ckpt")
_LAST_NUMBER: Final = re.compile(r".*?([0-9]+)")
_ORBAX: Final = "_CHECKPOINT_METADATA"
_DCP: Final = ".metadata"
_TREE: Final = re.compile(r"(?:[^/]+/)?_METADATA")
_ARRAYS: Final = {"np.ndarray", "jax.Array"}
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
        rests: Whether its files tell that it is complete only where they came in order.
    """

    kind: str | None
    step: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    made_from: Sequence[tuple[str, str]] = ()
    waits: str | None = None
    wrong: str | None = None
    rests: bool = False

    @property
    def complete(self) -> bool:
        """Whether it can be imported."""
        return self.kind is not None and not self.waits and not self.wrong


def recognise(  # noqa: PLR0911 (a layout each)
    name: str, files: Mapping[str, int], read: Read, *, marked: bool = False
) -> Layout:
    """Return what a drop is.

    Args:
        name: The name of its folder, or of its only file.
        files: Its files and their sizes; one file is called by the drop's name.
        read: Returns the bytes of a small file.
        marked: Whether a marker says that it is complete.
    """
    if _TEMPORARY.search(name):
        return Layout(None, waits="its name says that it is still being written")
    if not files:
        return Layout(None, waits="nothing is in it yet")
    if name in files and name.endswith(".ckpt"):
        return _lightning(name)
    if name in files and name.endswith(".safetensors"):
        return _safetensors(name, files, read)
    if _ORBAX in files:
        return _orbax(name, files, read)
    if _DCP in files or any(path.endswith(".distcp") for path in files):
        return _distributed(name, files, read)
    found = _HUGGING_FACE.fullmatch(name)
    if found is not None:
        return _hugging_face(int(found[1]), files, read, marked=marked)
    return Layout(None, wrong="it has none of the layouts that are known here")


def _lightning(name: str) -> Layout:
    found = _LIGHTNING.fullmatch(name)
    if found is None:
        return Layout("lightning", wrong="its name has no step; write epoch=1-step=20.ckpt")
    return Layout("lightning", int(found[1]))


def _orbax(name: str, files: Mapping[str, int], read: Read) -> Layout:
    """Return a step of Orbax's, which writes the time of its commit last.

    What it holds is looked for besides: a copy may bring that note before the rest.
    """
    kind = "orbax"
    found = _LAST_NUMBER.fullmatch(name)
    if found is None:
        return Layout(kind, wrong="its name does not end with its step")
    said = _object(read(_ORBAX))
    if said is None:
        return Layout(kind, waits=f"its {_ORBAX} is not whole yet")
    if "init_timestamp_nsecs" in said and not said.get("commit_timestamp_nsecs"):
        return Layout(kind, waits=f"its {_ORBAX} names no time of commit yet")
    handlers = said.get("item_handlers")
    for item in handlers if isinstance(handlers, dict) else ():
        if not _within(files, f"{item}/"):
            return Layout(kind, waits=f"its item {item!r} is not there yet")
    for path in files:
        if _TREE.fullmatch(path):
            waits = _unfinished_tree(path.removesuffix("_METADATA"), files, _object(read(path)))
            if waits:
                return Layout(kind, waits=waits)
    metrics = said.get("metrics") or {}
    if "metrics/metrics" in files:
        metrics = _object(read("metrics/metrics")) or {}
    numbers = {
        name: float(value)
        for name, value in (metrics.items() if isinstance(metrics, dict) else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Layout(kind, int(found[1]), metrics=numbers, rests=True)


def _unfinished_tree(
    tree: str, files: Mapping[str, int], said: Mapping[str, Any] | None
) -> str | None:
    """Return what an Orbax tree of arrays still lacks."""
    if said is None:
        return f"its {tree}_METADATA is not whole yet"
    if said.get("use_ocdbt"):
        if not files.get(f"{tree}manifest.ocdbt"):
            return f"it has no {tree}manifest.ocdbt yet"
        return None if _within(files, f"{tree}d/") else f"nothing is in {tree}d yet"
    for leaf in said.get("tree_metadata", {}).values():
        value = leaf.get("value_metadata", {})
        if value.get("value_type") not in _ARRAYS or value.get("skip_deserialize"):
            continue
        array = ".".join(str(part["key"]) for part in leaf["key_metadata"])
        if not _within(files, f"{tree}{array}/"):
            return f"its array {tree}{array} is not there yet"
    return None


def _within(files: Mapping[str, int], folder: str) -> bool:
    return any(path.startswith(folder) for path in files)


def _distributed(name: str, files: Mapping[str, int], read: Read) -> Layout:
    """Return a folder of `torch.distributed.checkpoint`, which writes `.metadata` last."""
    found = _LAST_NUMBER.fullmatch(name)
    if found is None:
        return Layout("dcp", wrong="its name does not end with its step")
    if _DCP not in files:
        return Layout("dcp", waits=f"it has no {_DCP} yet, which is written last")
    cited = _cited(read(_DCP))
    if cited is None:
        return Layout("dcp", waits=f"its {_DCP} is not whole yet")
    short = sorted(path for path, size in cited.items() if files.get(path, -1) < size)
    if short:
        state = "is not whole yet" if short[0] in files else "is not there yet"
        return Layout("dcp", waits=f"{short[0]}, which its {_DCP} cites, {state}")
    return Layout("dcp", int(found[1]))


def _cited(data: bytes) -> dict[str, int] | None:
    """Return the files that a `.metadata` cites and how long each is at least.

    It is a pickle, and is not unpickled: a place in a file is written as the three words
    `relative_path`, `offset` and `length`, each with its value behind it.
    """
    words: list[str | int | None] = []
    memo: dict[Any, str | int | None] = {}
    try:
        for opcode, given, _ in pickletools.genops(data):
            if "GET" in opcode.name:
                words.append(memo.get(given))
            elif "PUT" in opcode.name or opcode.name == "MEMOIZE":
                memo[len(memo) if given is None else given] = words[-1] if words else None
            elif opcode.stack_after:
                words.append(given if isinstance(given, str | int) else None)
    except ValueError:
        return None
    cited: dict[str, int] = {}
    for place in range(len(words)):
        match words[place : place + 6]:
            case ["relative_path", str(path), "offset", int(offset), "length", int(length)]:
                cited[path] = max(cited.get(path, 0), offset + length)
            case [str(path), *_] if path.endswith(".distcp"):
                cited.setdefault(path, 0)
    return cited


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


def _hugging_face(  # noqa: PLR0911 (one return for each thing that is missing)
    step: int, files: Mapping[str, int], read: Read, *, marked: bool
) -> Layout:
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
        absent = sorted(shard for shard in shards if shard not in files)
        if index is None or not shards or absent:
            return Layout(kind, waits=f"{len(absent) or 'all'} shards of its weights are missing")
    elif not whole & files.keys():
        return Layout(kind, waits="its weights are not there yet")
    state_of = _training_state(files)
    missing = [] if marked else [part for part, there in state_of.items() if not there]
    if 0 < len(missing) < len(state_of):
        return Layout(kind, waits=f"its {missing[0]} state is not there yet")
    metrics: dict[str, float] = {}
    for entry in state.get("log_history", []):
        metrics |= {
            name: float(value)
            for name, value in entry.items()
            if isinstance(value, int | float) and name not in {"step", "epoch"}
        }
    epoch = state.get("epoch")
    known = epoch if isinstance(epoch, int | float) else None
    # Without any state nothing tells a model saved alone from one whose state is on its way.
    return Layout(kind, step, known, metrics, rests=bool(missing))


def _training_state(files: Mapping[str, int]) -> dict[str, bool]:
    """Return which parts of a training's state are there; `Trainer` saves all or none."""
    # DeepSpeed keeps optimizer and schedule in a folder of its own.
    deep = any(path.startswith("global_step") for path in files)
    return {
        "optimizer": deep or any(path.startswith("optimizer") for path in files),
        "scheduler": deep or "scheduler.pt" in files,
        "rng": any(path.startswith("rng_state") for path in files),
    }


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
