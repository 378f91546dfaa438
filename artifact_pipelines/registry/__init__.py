"""The use cases: the only writer of the catalog and the store."""

from artifact_pipelines.registry.registry import Registry, open_registry

__all__ = ["Registry", "open_registry"]
