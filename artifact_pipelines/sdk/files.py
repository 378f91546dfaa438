"""A checkpoint's files: tensors as safetensors, and files as a trainer wrote them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from artifact_pipelines.errors import SourceError, TrainerError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from safetensors import TensorSpec


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


def save_tensors(what: str, tensors: object) -> bytes:
    """Return arrays by name as the bytes of a safetensors file: the one copy that is made.

    Raises:
        TrainerError: There are none, or one is no array that safetensors holds.
    """
    from safetensors import SafetensorError, serialize

    if not isinstance(tensors, Mapping) or not tensors:
        raise TrainerError(f"{what} has no tensors; pass arrays by name, or a path.")
    alive: list[Any] = []
    try:
        specs = {
            _text(what, name): _spec(what, name, array, alive) for name, array in tensors.items()
        }
        return bytes(serialize(specs, metadata=None))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise TrainerError(f"{what} has tensors that safetensors cannot hold: {error}.") from error


def _text(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TrainerError(f"{what}: the tensor {name!r} must be named by a text.")
    return name


def _spec(what: str, name: object, array: Any, alive: list[Any]) -> "TensorSpec":  # noqa: ANN401 (any array)
    """Return where an array's bytes are; what a view leaves out must not be written."""
    import numpy as np
    from safetensors import TensorSpec

    if _library(array) == "torch":
        if hasattr(array, "full_tensor"):
            raise TrainerError(
                f"{what}: the tensor {name!r} is spread over processes; gather it first, or save "
                "with torch.distributed.checkpoint and pass the folder."
            )
        plain = array.detach().cpu().contiguous()
        alive.append(plain)
        return TensorSpec(
            dtype=str(plain.dtype).removeprefix("torch."),
            shape=tuple(plain.shape),
            data_ptr=plain.data_ptr(),
            data_len=plain.nbytes,
        )
    if not isinstance(array, np.ndarray | np.generic):
        raise TrainerError(
            f"{what}: the tensor {name!r} is a {type(array).__name__}; "
            "pass arrays by name, or the path of a file."
        )
    found = np.asarray(array, order="C")
    if found.dtype.hasobject:
        raise TypeError(f"{name!r} holds Python objects")
    # The file's byte order is little-endian.
    found = found.astype(found.dtype.newbyteorder("<"), copy=False)
    alive.append(found)
    return TensorSpec(
        dtype=found.dtype.name,
        shape=found.shape,
        data_ptr=found.ctypes.data,
        data_len=found.nbytes,
    )


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
