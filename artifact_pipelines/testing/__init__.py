"""Tests that others can run against their own parts; they need pytest."""

import pytest

# Before the import, so that a failing assertion shows its values.
pytest.register_assert_rewrite("artifact_pipelines.testing.backends")

from artifact_pipelines.testing.backends import BackendTests  # noqa: E402

__all__ = ["BackendTests"]
