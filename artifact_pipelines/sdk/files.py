"""A checkpoint's files: tensors as safetensors, and files as a trainer wrote them."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from artifact_pipelines.errors import SourceError, TrainerError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def files_of(path: Path) -> dict[str, Path | bytes]:
    """Return the files behind a path by the path that each will have."""
    if path.is_symlink() or not path.is_dir():
        return {path.name: plain_file(path)}
    found: dict[str, Path | bytes] = {}

    def unreadable(error: OSError) -> NoReturn:
        raise SourceError(f"the folder {str(path)!r} cannot be read: {error.strerror}.") from error

    size = 0
    for folder, folders, names in os.walk(path, onerror=unreadable):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            file = Path(folder) / name
            found[file.relative_to(path).as_posix()] = plain_file(file, may_be_empty=True)
            size += file.stat().st_size
    if not size:
        raise SourceError(f"the folder {str(path)!r} is empty; write the checkpoint's files first.")
    return found


def plain_file(path: Path, *, may_be_empty: bool = False) -> Path:
    """Return a file that can be taken.

    Raises:
        SourceError: It is missing, empty, no plain file, or no whole safetensors file.
    """
    shown = str(path)
    if path.is_symlink():
        raise SourceError(f"the file {shown!r} is a symbolic link; these are not followed.")
    if not path.exists():
        raise SourceError(f"the file {shown!r} does not exist.")
    if not path.is_file():
        raise SourceError(f"{shown!r} is not a plain file.")
    if path.stat().st_size == 0:
        if may_be_empty:
            return path
        raise SourceError(f"the file {shown!r} is empty.")
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    return path


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{str(path)!r} is not a whole safetensors file: {error}.") from error


def state_of(value: Any) -> Any:  # noqa: ANN401 (a framework's object, or plain state)
    """Return the state of an object that has a `state_dict`, else what was passed."""
    return value.state_dict() if hasattr(value, "state_dict") else value


def is_array(value: object) -> bool:
    """Return whether a value is a NumPy array or a PyTorch tensor, without importing either."""
    return _library(value) == "torch" or (
        _library(value) == "numpy" and hasattr(value, "dtype") and hasattr(value, "nbytes")
    )


def size_of(tensors: object) -> int:
    """Return how many bytes the tensors of a mapping take, those that are some."""
    if not isinstance(tensors, Mapping):
        return 0
    return sum(int(value.nbytes) for value in tensors.values() if is_array(value))


def precision_of(tensors: object) -> list[str]:
    """Return the types of the tensors of a mapping, such as `float32`, each once."""
    if not isinstance(tensors, Mapping):
        return []
    return sorted(
        {
            getattr(value.dtype, "name", str(value.dtype)).removeprefix("torch.")
            for value in tensors.values()
            if is_array(value)
        }
    )


# In the order in which safetensors writes them: the widest first.
_TYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_ORDER = {name: place for place, name in enumerate(_TYPES)}


def save_tensors(
    what: str, tensors: object, memory: "Callable[[int], NDArray[Any]] | None" = None
) -> bytes:
    """Return arrays by name as the bytes of a safetensors file: the one copy that is made.

    The library makes two copies, which a training would wait for.

    Args:
        what: What they are of, for errors.
        tensors: The arrays.
        memory: Returns that many bytes to fill; fresh ones when left out.

    Raises:
        TrainerError: There are none, or one is no array that safetensors holds.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise TrainerError(f"{what} has no tensors; pass arrays by name, or a path.")
    plain = [(_text(what, name), *_flat(what, name, array)) for name, array in tensors.items()]
    plain.sort(key=lambda item: (_ORDER[item[1]], item[0]))
    header, end = {}, 0
    for name, kind, shape, data in plain:
        place = [end, end + data.size]
        header[name] = {"dtype": _TYPES[kind], "shape": list(shape), "data_offsets": place}
        end += data.size
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    head = len(written).to_bytes(8, "little") + written
    return _joined(head, [item[3] for item in plain], (memory or _fresh)(len(head) + end))


def _fresh(size: int) -> "NDArray[Any]":
    import numpy as np

    return np.empty(size, np.uint8)


def _joined(head: bytes, arrays: "list[NDArray[Any]]", whole: "NDArray[Any]") -> bytes:
    """Return bytes with arrays after them, written once."""
    import numpy as np

    whole[: len(head)] = np.frombuffer(head, np.uint8)
    at = len(head)
    for data in arrays:
        whole[at : at + data.size] = data
        at += data.size
    # Who reads bytes reads a view of them as well.
    view: Any = whole.data
    return view  # type: ignore[no-any-return]


def _flat(what: str, name: object, array: Any) -> "tuple[str, tuple[int, ...], NDArray[Any]]":  # noqa: ANN401 (any array)
    """Return the type and shape of an array, and its bytes without what a view leaves out."""
    import numpy as np

    if _library(array) == "torch":
        if hasattr(array, "full_tensor"):
            raise TrainerError(
                f"{what}: the tensor {name!r} is spread over processes; gather it first, or save "
                "with torch.distributed.checkpoint and pass the folder."
            )
        plain = array.detach().cpu().contiguous()
        kind, shape = str(plain.dtype).removeprefix("torch."), tuple(plain.shape)
        flat = plain.reshape(-1).view(sys.modules["torch"].uint8).numpy()
    elif isinstance(array, np.ndarray | np.generic):
        # The file's byte order is little-endian.
        found = np.asarray(array, order="C")
        if found.dtype.hasobject or found.dtype.kind not in "biufc":
            raise TrainerError(
                f"{what} has tensors that safetensors cannot hold: {name!r} is {found.dtype}."
            )
        found = found.astype(found.dtype.newbyteorder("<"), copy=False)
        kind, shape, flat = found.dtype.name, found.shape, found.reshape(-1).view(np.uint8)
    else:
        raise TrainerError(
            f"{what}: the tensor {name!r} is a {type(array).__name__}; "
            "pass arrays by name, or the path of a file."
        )
    if kind not in _TYPES:
        raise TrainerError(f"{what} has tensors that safetensors cannot hold: {name!r} is {kind}.")
    return kind, shape, flat


def _text(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TrainerError(f"{what}: the tensor {name!r} must be named by a text.")
    return name


def _library(value: object) -> str:
    return next(
        (
            name
            for kind in type(value).__mro__
            if (name := kind.__module__.partition(".")[0]) in {"torch", "numpy"}
        ),
        "",
    )


def load_tensors(path: Path) -> "dict[str, NDArray[Any]]":
    """Return the arrays of a safetensors file by name, none where there is no file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise TrainerError(f"{path.name!r} cannot be read as numpy arrays: {error}.") from error
