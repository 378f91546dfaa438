"""An MLflow tracking server, asked over HTTP as its own client would."""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from artifact_pipelines.domain import naming
from artifact_pipelines.errors import SourceError
from artifact_pipelines.integrations.mlflow_source import (
    Dataset,
    Files,
    Place,
    Run,
    Source,
    Version,
)

_API = "api/2.0/mlflow"
_PROXY = "api/2.0/mlflow-artifacts/artifacts"
_PAGE = 100
_POINTS = 25_000
_PATIENCE = 60.0  # seconds for an answer to begin
_WINDOW = 4 * 2**20


class Server(Source):
    """A tracking server and its registry.

    User and password are taken from the address or, as MLflow does, from
    `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.
    """

    def __init__(self, address: str) -> None:
        """Remember where it is; nothing is asked yet."""
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        self.address = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        self._headers = {"Content-Type": "application/json"}
        if user:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        elif token:
            self._headers["Authorization"] = f"Bearer {token}"

    @property
    def base(self) -> Path:
        """The folder that relative paths are from: the one that this runs in."""
        return Path.cwd()

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments by id."""
        found = self._pages("experiments/search", "experiments", max_results=_PAGE)
        return {one["experiment_id"]: one["name"] for one in found}

    def runs(self, experiments: Mapping[str, str]) -> Iterator[Run]:
        """Yield the runs, each with the history of its metrics."""
        body = {
            "experiment_ids": sorted(experiments),
            "max_results": _PAGE,
            "order_by": ["attributes.start_time ASC"],
        }
        for one in self._pages("runs/search", "runs", body) if experiments else ():
            info, data = one["info"], one.get("data", {})
            points = [
                (entry["key"], float(entry["value"]), int(entry["step"]), int(entry["timestamp"]))
                for key in sorted({metric["key"] for metric in data.get("metrics", [])})
                for entry in self._pages(
                    "metrics/get-history",
                    "metrics",
                    run_id=info["run_id"],
                    metric_key=key,
                    max_results=_POINTS,
                )
            ]
            points.sort(key=lambda point: (point[0], point[2], point[3]))
            yield Run(
                info["run_id"],
                info.get("run_name", ""),
                experiments[info["experiment_id"]],
                info["status"],
                int(info["start_time"]),
                int(info["end_time"]) if info.get("end_time") else None,
                info.get("user_id"),
                info.get("artifact_uri"),
                _pairs(data.get("params", [])),
                _pairs(data.get("tags", [])),
                tuple(points),
                tuple(_datasets(one)),
            )

    def versions(self) -> list[Version]:
        """Return the versions of all models, oldest first."""
        found = [
            Version(
                one["name"],
                int(one["version"]),
                one.get("run_id") or None,
                self._download_uri(one),
                one.get("description") or None,
                one.get("current_stage"),
                int(one["creation_timestamp"]),
                _pairs(one.get("tags", [])),
            )
            for one in self._pages("model-versions/search", "model_versions", max_results=_PAGE)
        ]
        return sorted(found, key=lambda one: (one.made, one.model, one.version))

    def aliases(self) -> list[tuple[str, str, int]]:
        """Return model, alias and version of each alias."""
        models = self._pages("registered-models/search", "registered_models", max_results=_PAGE)
        return sorted(
            (one["name"], alias["alias"], int(alias["version"]))
            for one in models
            for alias in one.get("aliases", [])
        )

    def place(self, uri: str | None) -> Place | None:
        """Return the artifacts below a URI, through the server where it passes them on."""
        parts = urlsplit(uri or "")
        if parts.scheme != "mlflow-artifacts":
            return super().place(uri)
        root = parts.path.strip("/")
        sizes = {path.removeprefix(f"{root}/"): size for path, size in self._listed(root)}

        def fetch(folder: Path) -> Files:
            naming.check_paths(sizes)
            for path, size in sizes.items():
                self._download(f"{root}/{path}", folder / path, size)
            return {path: folder / path for path in sizes}

        return Place(sizes, fetch, here=False) if sizes else None

    def _download_uri(self, version: Mapping[str, Any]) -> str | None:
        source: str | None = version.get("source")
        if source is None or not source.startswith("models:"):
            return source
        about = {"name": version["name"], "version": version["version"]}
        answer = self._ask(f"{_API}/model-versions/get-download-uri?{urlencode(about)}")
        return answer.get("artifact_uri") or None

    def _listed(self, root: str) -> Iterator[tuple[str, int]]:
        """Yield the path and size of each file below a folder of the server's artifacts."""
        for one in self._ask(f"{_PROXY}?{urlencode({'path': root})}").get("files", []):
            # Older servers name a path from the folder, newer ones from the root of all.
            path = one["path"] if one["path"].startswith(f"{root}/") else f"{root}/{one['path']}"
            if one.get("is_dir"):
                yield from self._listed(path)
            else:
                yield path, int(one.get("file_size", 0))

    def _download(self, path: str, to: Path, size: int) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._opened(f"{_PROXY}/{quote(path)}") as answer, to.open("wb") as file:
            while window := answer.read(_WINDOW):
                file.write(window)
        found = to.stat().st_size
        if found != size:
            raise SourceError(
                f"{self.address} sent {found} of the {size} bytes of {path!r}; import again."
            )

    def _pages(
        self, what: str, field: str, body: Mapping[str, Any] | None = None, **query: object
    ) -> Iterator[Any]:
        token = ""
        while True:
            turn = {"page_token": token} if token else {}
            if body is None:
                page = self._ask(f"{_API}/{what}?{urlencode({**query, **turn})}")
            else:
                page = self._ask(f"{_API}/{what}", json.dumps({**body, **turn}).encode())
            yield from page.get(field, [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def _ask(self, what: str, body: bytes | None = None) -> dict[str, Any]:
        with self._opened(what, body) as answer:
            data = answer.read()
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SourceError(f"{self.address} is no MLflow server: it did not answer in JSON.")
        return found

    @contextmanager
    def _opened(self, what: str, body: bytes | None = None) -> Iterator[Any]:
        request = Request(f"{self.address}/{what}", body)  # noqa: S310 (http alone)
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)
        try:
            with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 (http alone)
                yield answer
        except HTTPError as error:
            error.close()
            hint = (
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN"
                if error.code in {401, 403}
                else "is this the address of an MLflow server"
            )
            asked = what.partition("?")[0]
            raise SourceError(
                f"{self.address} answered {error.code} for {asked}; {hint}."
            ) from error
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            why = getattr(error, "reason", error)
            raise SourceError(
                f"the MLflow server {self.address} cannot be reached: {why}."
            ) from error


def _pairs(entries: list[Mapping[str, str]]) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in entries}


def _datasets(run: Mapping[str, Any]) -> Iterator[Dataset]:
    for one in run.get("inputs", {}).get("dataset_inputs", []):
        found = one["dataset"]
        yield Dataset(
            found["name"],
            found["digest"],
            found["source_type"],
            found["source"],
            found.get("schema"),
            found.get("profile"),
            _pairs(one.get("tags", [])).get("mlflow.data.context"),
        )
