"""A checkpoint's files: tensors as safetensors, and files as a trainer wrote them."""

import os
from collections.abc import Mapping
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


def save_tensors(what: str, tensors: object) -> bytes:
    """Return arrays by name as the bytes of a safetensors file.

    Raises:
        TrainerError: There are none, or one is no array that safetensors holds.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    if not isinstance(tensors, Mapping) or not tensors:
        raise TrainerError(f"{what} has no tensors; pass arrays by name, or a path.")
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray | np.generic):
            raise TrainerError(
                f"{what}: the tensor {name!r} is a {type(array).__name__}; "
                "pass numpy arrays by name, or the path of a file."
            )
        # What a view leaves out must not be written, and the file's byte order is little-endian.
        plain = np.asarray(array, order="C")
        arrays[name] = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    try:
        return save(arrays)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise TrainerError(f"{what} has tensors that safetensors cannot hold: {error}.") from error


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
