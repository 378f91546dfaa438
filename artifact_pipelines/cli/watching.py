"""The command for those on duty: figures for Prometheus."""

import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import typer

from artifact_pipelines.cli.opening import reading, settings
from artifact_pipelines.cli.output import note, say
from artifact_pipelines.errors import ArtifactError

metrics = typer.Typer(help="Figures for Prometheus.", no_args_is_help=True)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@metrics.command("show")
def show_metrics() -> None:
    """Print the state of the registry, and how long work took, as Prometheus reads it."""
    say(_exposition(settings().metrics).rstrip())


@metrics.command("serve")
def serve_metrics(
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = 9464,
) -> None:
    """Serve the same at /metrics, until Ctrl-C; /healthz says whether the registry opens."""
    folder = settings().metrics

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in {"/metrics", "/healthz"}:
                self._answer(404, "there are /metrics and /healthz here.\n")
                return
            try:
                text = _exposition(folder)
            except (ArtifactError, OSError) as error:
                self._answer(503, f"{error}\n")
                return
            self._answer(200, "well\n" if self.path == "/healthz" else text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as inherited
            """Say nothing of each request."""

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", _TYPE)
            self.end_headers()
            self.wfile.write(text.encode())

    # A container's first process, or one that was started with the signal ignored, has to ask
    # for it; the server then stops as it does at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadingHTTPServer((host, port), Handler) as server:
        note(f"Serving http://{host}:{server.server_address[1]}/metrics until Ctrl-C.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("Stopped.")


def _exposition(folder: Path | None) -> str:
    from artifact_pipelines.registry.measuring import PREFIX, exposition, figures

    began = time.perf_counter()
    with reading() as registry:
        text = exposition(figures(registry))
    text += f"# TYPE {PREFIX}scrape_seconds gauge\n"
    text += f"{PREFIX}scrape_seconds {time.perf_counter() - began:g}\n"
    if folder is not None:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        collected = CollectorRegistry()
        MultiProcessCollector(collected, str(folder))  # type: ignore[no-untyped-call]
        text += generate_latest(collected).decode()
    return text
