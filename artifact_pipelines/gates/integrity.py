"""The gate that asks whether a model's bytes are what its record says."""

from collections.abc import Sequence

from artifact_pipelines.domain.verdict import Finding


def integrity_finding(damaged: Sequence[str]) -> Finding:
    """Return a finding on what reading every byte again said."""
    if damaged:
        return Finding("integrity", passed=False, reasons=tuple(damaged))
    return Finding("integrity", passed=True, reasons=("every byte matches its digest",))
