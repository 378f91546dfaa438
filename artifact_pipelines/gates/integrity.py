"""The gate that asks whether a model's bytes are what its record says."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from artifact_pipelines.domain.verdict import Finding


def integrity_finding(damaged: Sequence[str]) -> Finding:
    """Return a finding on what reading every byte again said."""
    if damaged:
        return Finding("integrity", passed=False, reasons=tuple(damaged))
    return Finding("integrity", passed=True, reasons=("every byte matches its digest",))


def changed(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return the paths in a folder that are not as they were fetched, be they more or fewer."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return sorted(
        path for path in digests.keys() | found.keys() if digests.get(path) != found.get(path)
    )
