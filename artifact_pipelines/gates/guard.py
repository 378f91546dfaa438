"""What keeps a gate honest: its failures are findings, and its code has a digest."""

from collections.abc import Callable, Mapping
from pathlib import Path

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import ConfigurationError, SandboxError


def guarded(gate: str, look: Callable[[], Finding]) -> Finding:
    """Return what a gate finds; a gate that raises or exits has failed, for that reason."""
    try:
        found: object = look()
    except SandboxError as error:
        return Finding(gate, passed=False, reasons=(str(error),))
    except (Exception, SystemExit) as error:  # noqa: BLE001 (what a gate raises is its verdict)
        reason = f"the gate raised {type(error).__name__}: {error}"
        return Finding(gate, passed=False, reasons=(reason,))
    if not isinstance(found, Finding):
        reason = f"the gate gave a {type(found).__name__} in place of a finding"
        return Finding(gate, passed=False, reasons=(reason,))
    return found


def gate_code_digest(functions: Mapping[str, str | None]) -> str:
    """Return the SHA-256 over the gates' source files and those of a project's functions.

    Args:
        functions: The SHA-256 of each function's file, by `module:name`.

    Raises:
        ConfigurationError: A function has no source file.
    """
    for name, found in functions.items():
        if found is None:
            raise ConfigurationError(f"{name} has no source file, so no verdict can name its code.")
    files = [
        (file.name, digest.sha256(file.read_bytes()))
        for file in sorted(Path(__file__).parent.glob("*.py"))
    ]
    return digest.sha256(digest.canonical([*map(list, files), *map(list, functions.items())]))
