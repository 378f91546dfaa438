"""Take the pictures that the README shows: `python -m artifact_pipelines_tests.ui.pictures`."""

import sys
import tempfile
from pathlib import Path

from artifact_pipelines_tests.ui.browser import ROOT, demonstrated, missing, page

FOLDER = ROOT / "docs" / "pictures"


def main() -> int:
    """Run the demonstration, open the UI on it and take the pictures."""
    if missing():
        sys.stderr.write(f"No picture was taken: {missing()}.\n")
        return 2
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        demonstrated(Path(folder)) as address,
        page(address) as seen,
    ):
        seen.graph()
        seen.picture(FOLDER / "graph.png")
        seen.checkpoints("baseline")
        seen.picture(FOLDER / "checkpoints.png")
        seen.curve("baseline")
        seen.picture(FOLDER / "curves.png")
        seen.failed_gate("worst_class_recall_min")
        seen.wait("is below 0.7")
        seen.picture(FOLDER / "gates.png")
        seen.materialize_production()
        seen.wait("0 of 1 approvals")
        # Below it stands a stack trace, with the paths of this machine.
        seen.picture(FOLDER / "refused.png", "Execution of run for", 116)
    return 0


if __name__ == "__main__":
    sys.exit(main())
