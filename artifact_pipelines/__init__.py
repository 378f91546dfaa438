"""A governed repository for machine-learning artifacts, carried by Dagster."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifact_pipelines.sdk import Run, register_dataset, resolve, start_run

    __version__: str

__all__ = ["Run", "__version__", "register_dataset", "resolve", "start_run"]


def __getattr__(name: str) -> object:
    """Return a public name, imported when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("artifact-pipelines")
    if name in __all__:
        from artifact_pipelines import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
