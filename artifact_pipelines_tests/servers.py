"""Real servers on free ports of this machine, for the tests that need one."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY = "AKIDTESTADMINISTRAT0"
SECRET = "secret-of-the-tests-only"  # noqa: S105
READER_KEY = "AKIDTESTREADERONLY00"
READER_SECRET = "reader-of-the-tests-only"  # noqa: S105

_GRPC = 10_000  # SeaweedFS adds it to each port for a second one
_PATIENCE = 60.0  # seconds; a start after a kill takes twenty


class SeaweedFS:
    """An S3 server in a process group of its own.

    Attributes:
        folder: What it keeps, over restarts.
        port: Where S3 is served.
    """

    def __init__(self, folder: Path) -> None:
        """Choose ports; `start` starts it."""
        self.folder = folder
        self._master, self._volume, self._filer, self.port = _free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        identities = [
            _identity("admin", KEY, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity("reader", READER_KEY, READER_SECRET, ["Read", "List"]),
        ]
        (folder / "identities.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        """The address of S3."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables under which AWS tools use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            str(Path(sys.executable).with_name("weed")),
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={self._master}",
            f"-volume.port={self._volume}",
            "-filer",
            f"-filer.port={self._filer}",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={self.folder / 'identities.json'}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=200",  # each bucket takes seven
            "-master.volumeSizeLimitMB=256",
            "-master.telemetry=false",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"SeaweedFS did not start:\n{said}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it at once, as a loss of its machine would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> str:
        """Return a new bucket's URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self) -> "boto3.client":
        """Return a client that is none of ours."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            self.client().list_buckets()
        except (OSError, BotoCoreError, ClientError):
            return False
        return True


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[SeaweedFS]:
    """Yield a running server that is killed, and its folder removed, in the end."""
    server = SeaweedFS(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Redis:
    """A broker in a process group of its own.

    Attributes:
        url: Its address.
    """

    def __init__(self, folder: Path) -> None:
        """Start it and wait until it answers."""
        (port,) = _free_ports(1)
        self.url = f"redis://127.0.0.1:{port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        program = shutil.which("redis-server")
        assert program is not None
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(folder)], stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + _PATIENCE
        while not self._answers(port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"Redis did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as asked:
                asked.sendall(b"PING\r\n")
                return asked.recv(5) == b"+PONG"
        except OSError:
            return False


class Proxy:
    """A listener before a server that does what networks do.

    Attributes:
        port: Where it listens.
        lost: How many replies it kept from arriving.
    """

    def __init__(self, target: int) -> None:
        """Listen, and pass on to a port of this machine."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0
        self._lose: bytes | None = None
        self._times = 0
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_replies(self, to: bytes, times: int = 1) -> None:
        """Cut the connection instead of passing on replies to requests that begin so."""
        self._lose, self._times = to, times

    def close(self) -> None:
        """Stop, and cut every connection."""
        self._listener.close()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [client, server]
                pair = _Pair(self, client, server)
                threading.Thread(target=pair.requests, daemon=True).start()
                threading.Thread(target=pair.replies, daemon=True).start()

    def is_lost(self, request: bytes) -> bool:
        """Return whether the reply to a request is to be lost, and count it."""
        if self._lose is None or not self._times or not request.startswith(self._lose):
            return False
        self._times -= 1
        self.lost += 1
        return True


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._request = b""

    def requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 16):
                # A client sends the next request when it has the reply to the one before.
                if data.split(b" ", 1)[0] in {b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"}:
                    self._request = data
                self._server.sendall(data)
        self._close()

    def replies(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 16):
                if data.startswith(b"HTTP/1.1 100"):
                    self._client.sendall(data)
                    continue
                if self._proxy.is_lost(self._request):
                    break
                self._client.sendall(data)
        self._close()

    def _close(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for a while; other AWS variables are taken away."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": actions,
    }


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose second ones are free too."""
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < count:
            first = socket.socket()
            held.append(first)
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + _GRPC >= 1 << 16:
                continue
            second = socket.socket()
            held.append(second)
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + _GRPC))
                found.append(port)
    finally:
        for one in held:
            one.close()
    return found
