"""As much of Kubernetes' interface as one pod needs: it is a process of this machine.

There is no cluster in the tests. What is real is Dagster's client for Pipes, which asks over
HTTP as it would ask a cluster, and the process that trains, with what the pod says of it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "http://127.0.0.1:PORT"}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: here}}]
users: [{name: test, user: {}}]
"""


@dataclass
class Cluster:
    """A server with pods.

    Attributes:
        folder: Where it keeps their logs.
        pods: The pods that were asked for, by name.
        deleted: The names of those that were deleted.
        environ: What else the process of a pod finds in its environment.
        refuses: The status with which it answers every request to make a pod.
    """

    folder: Path
    pods: dict[str, Any] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    refuses: int | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self, pod: dict[str, Any]) -> None:
        """Start the first container of a pod as a process."""
        name = pod["metadata"]["name"]
        main = pod["spec"]["containers"][0]
        given = {one["name"]: one["value"] for one in main.get("env", [])}
        command = [sys.executable if word == "python" else word for word in main["command"]]
        with (self.folder / name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env={**os.environ, **self.environ, **given},
                stdout=log,
                stderr=log,
            )
        self.pods[name] = pod

    def status(self, name: str) -> dict[str, Any]:
        """Return what a cluster says of a pod."""
        code = self.processes[name].poll()
        state: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        if code is not None:
            state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        container = self.pods[name]["spec"]["containers"][0]
        return {
            **self.pods[name],
            "status": {
                "phase": "Running" if code is None else "Failed" if code else "Succeeded",
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "imageID": "",
                        "ready": code is None,
                        "restartCount": 0,
                        "state": state,
                    }
                ],
            },
        }


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.endswith("/log"):
            self._follow(parts.path.split("/")[-2])
            return
        wanted = parse_qs(parts.query).get("fieldSelector", [""])[0].partition("=")[2]
        pods = [self.cluster.status(name) for name in self.cluster.pods if name == wanted]
        self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": pods})

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.cluster.refuses is not None:
            self._answer(self.cluster.refuses, {"kind": "Status", "status": "Failure"})
            return
        self.cluster.begin(pod)
        self._answer(201, pod)

    def do_DELETE(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        self.cluster.processes[name].kill()
        self.cluster.deleted.append(name)
        self._answer(200, {"kind": "Status", "status": "Success"})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _follow(self, name: str) -> None:
        """Send a pod's log, with the time of each line, until it has ended."""
        self.send_response(200)
        self.end_headers()
        with (self.cluster.folder / name).open("rb") as log:
            while True:
                over = self.cluster.processes[name].poll() is not None
                for line in log:
                    # Dagster takes lines of one time for one line, so each has its own.
                    seconds, rest = divmod(time.time_ns(), 10**9)
                    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
                    self.wfile.write(f"{now}.{rest:09d}Z ".encode() + line)
                if over:
                    return
                time.sleep(0.05)

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """Yield a cluster and the file that says where it is."""
    folder.mkdir()
    cluster = Cluster(folder)
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = folder / "kubeconfig"
        config.write_text(KUBECONFIG.replace("PORT", str(server.server_port)))
        try:
            yield cluster, config
        finally:
            for process in cluster.processes.values():
                process.kill()
                process.wait()
            server.shutdown()
