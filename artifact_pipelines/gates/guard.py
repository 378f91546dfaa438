"""What keeps a gate honest: its failures are findings, and its code has a digest."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifact_pipelines.domain.verdict import Finding

_OWN = ("data.py", "guard.py", "integrity.py", "metrics.py", "safety.py")


def guarded(gate: str, look: Callable[[], Finding]) -> Finding:
    """Return what a gate finds; a gate that raises has failed, for the reason it raised."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  whatever a gate raises is its verdict
        reason = f"the gate raised {type(error).__name__}: {error}"
        return Finding(gate, passed=False, reasons=(reason,))


def gate_code_digest(*functions: Callable[..., Any]) -> str:
    """Return the SHA-256 over the gates' source files and those of a project's functions."""
    here = Path(__file__).parent
    files = [here / name for name in _OWN]
    files += [Path(found) for function in functions if (found := inspect.getsourcefile(function))]
    whole = hashlib.sha256()
    for file in files:
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
