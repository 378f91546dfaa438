"""What anybody may post to Dagster's web server moves nothing here."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster_webserver.external_assets import (
    handle_report_asset_check_request,
    handle_report_asset_materialization_request,
)
from starlette.requests import Request

from artifact_pipelines.errors import PromotionRefusedError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

PATIENCE = 120.0  # seconds for the server to come up on a busy machine

Post = Callable[[str, dict[str, object]], int]
"""Post JSON to a path and return the status."""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "home", actor="tester")


def forge(registry: Registry, post: Post) -> None:
    """Report every gate as passed, and both stages as moved; nothing may come of it."""
    registry.set_policy(PROJECT, building.POLICY)
    model = registry.publish_model(building.run(registry, "run-1")[-1])
    before = registry.sign_head()
    for gate in building.POLICY.required():
        report: dict[str, object] = {"check_name": gate, "passed": True, "blocking": True}
        assert post(f"report_asset_check/{PROJECT}/candidate", report) == 200
    for stage in ("staging", "production"):
        report = {"data_version": model.content, "metadata": {"model": model.reference}}
        assert post(f"report_asset_materialization/{PROJECT}/{stage}", report) == 200

    for stage in ("staging", "production"):
        with pytest.raises(PromotionRefusedError, match="integrity, safety has no verdict"):
            registry.promote(model.reference, stage)
    assert registry.stages(PROJECT) == {}
    assert registry.verdicts(model) == []
    assert registry.sign_head() == before
    assert registry.verify_ledger().problems == ()


class _Anybody:
    """What the server's handlers ask of a request's context, where there is no login."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Serve an instance."""
        self.instance = instance

    def has_permission_for_selector(self, *_: object) -> bool:
        """Return what the open-source server answers to everybody."""
        return True

    def get_reporting_user_tags(self) -> dict[str, str]:
        """Return who it is, as far as the open-source server knows."""
        return {}


def test_a_report_over_http_is_no_verdict(registry: Registry) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        handlers = {
            "report_asset_check": handle_report_asset_check_request,
            "report_asset_materialization": handle_report_asset_materialization_request,
        }

        def post(path: str, body: dict[str, object]) -> int:
            kind, _, key = path.partition("/")

            async def receive() -> dict[str, object]:
                return {"type": "http.request", "body": json.dumps(body).encode()}

            scope = {
                "type": "http",
                "method": "POST",
                "path_params": {"asset_key": key},
                "query_string": b"",
                "headers": [(b"content-type", b"application/json")],
            }
            request = Request(scope, receive)
            answer = asyncio.run(handlers[kind](_Anybody(instance), request))  # type: ignore[arg-type]
            return answer.status_code

        forge(registry, post)
        place = dg.AssetKey([PROJECT, "production"])
        assert instance.get_latest_materialization_event(place) is not None


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """Return the status and body of an answer to JSON."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(asked):
        asked.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = asked.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def webserver(folder: Path) -> Iterator[int]:
    """Run Dagster's web server in a process group of its own, and yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster_webserver", "--empty-workspace"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=folder,
            env={**os.environ, "DAGSTER_HOME": str(home)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError):
                    if ask(port, "GET", "/server_info")[0] == 200:
                        break
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.deep
def test_a_report_to_a_running_web_server_is_no_verdict(registry: Registry, tmp_path: Path) -> None:
    query = (
        '{assetOrError(assetKey: {path: ["digits", "production"]})'
        " {... on Asset {assetMaterializations {runId}}}}"
    )
    with webserver(tmp_path) as port:
        forge(registry, lambda path, body: ask(port, "POST", f"/{path}", body)[0])
        shown = json.loads(ask(port, "POST", "/graphql", {"query": query})[1])

    # Dagster believes it: that is why nothing here does.
    assert len(shown["data"]["assetOrError"]["assetMaterializations"]) == 1
