"""The backend behind a URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.files import FileBackend
from artifact_pipelines.store.memory import MemoryBackend


def open_backend(url: str) -> Backend:
    """Return the backend at a URL: `file:///path`, `s3://bucket/prefix` or `memory://name`.

    Raises:
        ConfigurationError: The URL is of another kind, or the environment cannot serve it.
        HomeError: The folder cannot carry a store.
        StoreError: The bucket cannot be reached, or cannot carry a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return FileBackend(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return MemoryBackend.named(parts.netloc)
    if parts.scheme == "s3":
        # Its libraries take longer to import than everything else that a trainer needs.
        from artifact_pipelines.store.s3 import S3Backend

        return S3Backend(url)
    raise ConfigurationError(
        f"the store URL {url!r} is not supported; use file:///path/to/store or s3://bucket/prefix."
    )
