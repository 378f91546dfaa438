"""The safety gate with the votes of others' scanners: each may refuse, and none may allow."""

import importlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.safety import MAX_REASONS, safety_finding


def safety_gate(case: Case) -> Finding:
    """Return whether every file is of an allowed format, sound, and suspected by none."""
    finding = safety_finding(case.files, case.policy.formats())
    evidence: dict[str, Any] = dict(finding.evidence or {})
    reasons = [] if finding.passed else list(finding.reasons)
    for scanner in case.policy.scanners():
        votes = case.sandbox.ask(
            scanner, "scan", scanner=scanner, folder=str(case.files), kinds=evidence["files"]
        )
        reasons += [f"{scanner} suspects {name}: {why}" for name, why in sorted(votes.items())]
        evidence[scanner] = votes
    if not reasons:
        also = ", ".join(case.policy.scanners())
        kept = f"{finding.reasons[0]}{f'; {also} finds nothing' if also else ''}"
        return replace(finding, reasons=(kept,), evidence=evidence)
    return replace(
        finding, passed=False, reasons=tuple(reasons[: MAX_REASONS + 1]), evidence=evidence
    )


def scan(scanner: str, folder: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """Return why a scanner suspects files, by path; what it cannot read is suspect.

    Args:
        scanner: The scanner.
        folder: The folder of the files.
        kinds: What each file is by its content, so that no name leads the scanner astray.

    Raises:
        InvalidFormatError: The scanner is not installed.
    """
    try:
        library: Any = importlib.import_module(f"{scanner}.scanner")
    except ImportError:
        raise InvalidFormatError(
            f"{scanner} is not installed; run: pip install 'artifact-pipelines[scan]'"
        ) from None
    suspects = {}
    for name, kind in kinds.items():
        try:
            data = io.BytesIO((Path(folder) / name).read_bytes())
            found = library.scan_bytes(data, name, ".npy" if kind == "npy" else "")
        except Exception as error:  # noqa: BLE001 (whatever it raises, it has not said yes)
            suspects[name] = f"it raised {type(error).__name__}"
            continue
        asked = [
            f"{one.module}.{one.name}" for one in found.globals if one.safety.value != "innocuous"
        ]
        if found.issues_count or found.suspicious_count or found.infected_files:
            suspects[name] = f"it asks for {', '.join(sorted(asked)[:5]) or 'something'}"
        elif found.scan_err:
            suspects[name] = "it cannot be read"
    return suspects
