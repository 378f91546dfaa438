"""A model served by itself: this file is run as a program, by an interpreter that is isolated.

It needs the standard library alone. It imports the project's function, with nothing but the
declared requirements to import, and asks it twice. One message comes in over a socket and one
goes out, each a length of eight bytes and JSON.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import math
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

LENGTH = 8
_KILOBYTE = 1 if sys.platform == "darwin" else 1024


class UndeclaredError(ModuleNotFoundError):
    """A module that none of the declared requirements brings."""


class OnlyDeclared(importlib.abc.MetaPathFinder):
    """What stands before all other finders and refuses what was not declared."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """Allow the standard library and some top-level modules."""
        self._allowed = {*sys.stdlib_module_names, *allowed}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Leave a module to the other finders, or refuse it."""
        del path, target
        top = fullname.partition(".")[0]
        # What the interpreter was built with is a module of the standard library without a name.
        if top in self._allowed or top.startswith("_sysconfigdata"):
            return None
        raise UndeclaredError(f"no declared requirement brings the module {top!r}", name=top)


def main(handle: int) -> None:
    """Answer one request."""
    with socket.socket(fileno=handle) as channel:
        request = json.loads(_exactly(channel, int.from_bytes(_exactly(channel, LENGTH), "little")))
        answer = serve(request)
        data = json.dumps(answer).encode()
        channel.sendall(len(data).to_bytes(LENGTH, "little") + data)
        # Whoever asked ends this program with all its children, which are found by it.
        channel.recv(1)


def serve(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model answers, how long it takes and what it needs."""
    sys.path[:] = request["path"]
    if request["allowed"] is not None:
        sys.meta_path.insert(0, OnlyDeclared(request["allowed"]))
    began = time.perf_counter()
    try:
        module, _, name = request["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        loaded = time.perf_counter()
        inputs = _table(request)
        first = plain(function(Path(request["model"]), inputs))
        answered = time.perf_counter()
        again = plain(function(Path(request["model"]), _table(request)))
        ended = time.perf_counter()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (what it raises is the answer)
        missing = _undeclared(error)
        return {"raised": f"{type(error).__name__}: {error}", "undeclared": missing}
    return {
        "answers": first,
        "same": json.dumps(first) == json.dumps(again),
        "seconds": {
            "import": loaded - began, "first": answered - loaded, "again": ended - answered
        },
        "memory": _most_memory(),
        "used": _used(request["distributions"]),
    }  # fmt: skip


def _undeclared(error: BaseException | None) -> list[str]:
    """Return the undeclared module that an error comes from; libraries also probe for others."""
    while error is not None:
        if isinstance(error, UndeclaredError):
            return [str(error.name)]
        error = error.__cause__ or error.__context__
    return []


def _table(request: Mapping[str, Any]) -> Any:  # noqa: ANN401 (a frame, where there is pandas)
    """Return the rows as a pandas frame, or as lists by column where pandas is not declared."""
    columns, allowed = request["inputs"], request["allowed"]
    if allowed is None or "pandas" in allowed:
        # Where nothing is declared, there may be no pandas either.
        with contextlib.suppress(*([ModuleNotFoundError] if allowed is None else [])):
            pandas = importlib.import_module("pandas")
            return pandas.DataFrame(
                {
                    name: pandas.Series(column["values"], dtype=column["dtype"])
                    for name, column in columns.items()
                }
            )
    return {name: column["values"] for name, column in columns.items()}


def plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 (JSON; one branch for each type)
    """Return an answer as JSON: arrays as lists, frames as one mapping for each row."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [plain(row) for row in value.to_dict("records")]
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"not finite": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"no JSON": type(value).__name__}


def _most_memory() -> int:
    """Return the most memory that this program has had."""
    with contextlib.suppress(OSError, StopIteration):
        # The other figure begins with that of whoever started this program.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE


def _used(distributions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of the distributions whose modules were imported."""
    return {
        name: importlib.metadata.version(name)
        for module, name in sorted(distributions.items())
        if module in sys.modules
    }


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = channel.recv(count - len(data))
        if not block:
            raise SystemExit(0)
        data += block
    return data


if __name__ == "__main__":
    main(int(sys.argv[1]))
