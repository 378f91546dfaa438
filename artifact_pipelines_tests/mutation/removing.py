"""A plugin for pytest that takes one guard out of the process that it runs in."""

import os

from artifact_pipelines_tests.mutation.guards import GUARDS

VARIABLE = "ARTIFACT_PIPELINES_WITHOUT_GUARD"


def pytest_configure() -> None:
    """Take out the guard that the environment names."""
    name = os.environ.get(VARIABLE)
    if name is not None:
        GUARDS[name].remove()
