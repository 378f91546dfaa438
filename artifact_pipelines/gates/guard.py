"""What keeps a gate honest: its failures are findings, and its code has a digest."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import ConfigurationError


def guarded(gate: str, look: Callable[[], Finding]) -> Finding:
    """Return what a gate finds; a gate that raises or exits has failed, for that reason."""
    try:
        found: object = look()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (what a gate raises is its verdict)
        reason = f"the gate raised {type(error).__name__}: {error}"
        return Finding(gate, passed=False, reasons=(reason,))
    if not isinstance(found, Finding):
        reason = f"the gate gave a {type(found).__name__} in place of a finding"
        return Finding(gate, passed=False, reasons=(reason,))
    return found


def gate_code_digest(*functions: Callable[..., Any]) -> str:
    """Return the SHA-256 over the gates' source files and those of a project's functions."""
    files = [(file.name, file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    for function in functions:
        bare: Any = inspect.unwrap(function)
        while isinstance(bare, functools.partial):
            bare = inspect.unwrap(bare.func)
        bare = bare if inspect.isroutine(bare) or inspect.isclass(bare) else type(bare)
        name = f"{bare.__module__}:{bare.__qualname__}"
        try:
            found = inspect.getsourcefile(bare)
        except TypeError:
            found = None
        if found is None:
            raise ConfigurationError(f"{name} has no source file, so no verdict can name its code.")
        files.append((name, Path(found)))
    return digest.sha256(
        digest.canonical([[name, digest.sha256(file.read_bytes())] for name, file in files])
    )
