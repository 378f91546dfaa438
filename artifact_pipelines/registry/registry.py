"""The registry: one class over the use cases, and how it is opened."""

import getpass
from pathlib import Path

from artifact_pipelines.registry.annotating import Annotating
from artifact_pipelines.registry.auditing import Auditing
from artifact_pipelines.registry.backtesting import Backtesting
from artifact_pipelines.registry.bundling import Bundling
from artifact_pipelines.registry.comparing import Comparing
from artifact_pipelines.registry.drilling import Drilling
from artifact_pipelines.registry.exporting import Exporting
from artifact_pipelines.registry.lifecycle import Lifecycle
from artifact_pipelines.registry.opened import parts
from artifact_pipelines.registry.recalling import Recalling
from artifact_pipelines.registry.receiving import Receiving
from artifact_pipelines.registry.serving import Serving
from artifact_pipelines.registry.straying import Straying
from artifact_pipelines.registry.sweeping import Sweeping


class Registry(
    Serving,
    Auditing,
    Sweeping,
    Backtesting,
    Drilling,
    Straying,
    Lifecycle,
    Bundling,
    Exporting,
    Annotating,
    Recalling,
    Comparing,
    Receiving,
):
    """Everything that can be done with artifacts; every interface calls this."""


def open_registry(
    home: Path,
    *,
    store_url: str | None = None,
    catalog_url: str | None = None,
    keys: Path | None = None,
    actor: str | None = None,
) -> Registry:
    """Open the registry of a home, made where there is none.

    Args:
        home: The folder of the embedded default.
        store_url: Where the bytes are, if not in the home.
        catalog_url: Where the facts are, if not in the home.
        keys: Where the signing keys are, if not in the home.
        actor: Who acts; the user's name by default.

    Raises:
        HomeError: The home cannot carry a registry.
        CatalogError: The catalog cannot be opened.
        BehindError: The catalog is older than the store.
    """
    catalog, backend, folder = parts(home, store_url, catalog_url, keys)
    return Registry(catalog, backend, folder, actor or getpass.getuser())
