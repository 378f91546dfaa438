"""A process of its own for users' code: it may raise, hang, grow or die, and only that.

It keeps a pipeline going and is no prison: the code runs as the same user, with that user's
files and network.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from artifact_pipelines.errors import ConfigurationError, SandboxError, WrongAnswerError
from artifact_pipelines.gates import warm

TICK: Final = 0.02
"""Seconds between two looks at how much memory is used."""
MAX_ANSWER: Final = 256 * 1024 * 1024
MEGABYTE: Final = 1_000_000

_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from artifact_pipelines.gates.warm import serve; serve(int(sys.argv[1]))"
)
_LIBRARIES: Final = ("numpy", "pandas", "pyarrow.parquet", "safetensors.numpy")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STANDARD_ERROR: Final = 2
_PATIENCE: Final = 300.0  # seconds; an import of large libraries on a busy machine takes some
_FAMILY_LOOK: Final = 10  # one look in so many is at the children of the process too
# Where the registry is, and the keys that it signs with, are none of a gate's business.
_WITHHELD: Final = "ARTIFACT_PIPELINES_"


class Sandbox:
    """One warm process that does jobs for one evaluation, made anew after each death.

    Attributes:
        seconds: How long one job may take.
        memory: How many bytes the process may grow by.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        """Take the limits; the process is made with the first job."""
        self.seconds = seconds
        self.memory = memory
        self._process: Watched | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._end()

    def ask(
        self,
        who: str,
        job: str,
        *,
        seconds: float | None = None,
        memory: int | None = None,
        modules: Sequence[str] = (),
        **arguments: Any,
    ) -> Any:  # noqa: ANN401 (plain JSON)
        """Return what a job answers.

        Args:
            who: What the sentence of an error begins with.
            job: Its name in `jobs.JOBS`.
            seconds: How long it may take, if not as long as others.
            memory: How many bytes it may take, if not as many as others.
            modules: Libraries that it needs, which later sandboxes then find imported.
            arguments: Plain JSON.

        Raises:
            SandboxError: It raised, took too long or too much, or died.
            ConfigurationError: What it names is not there, or no process can be made.
        """
        if self._process is None:
            self._process = _nursery.fork(modules)
        try:
            answer = self._process.ask(
                {"job": job, "arguments": arguments}, seconds or self.seconds, memory or self.memory
            )
        except GoneError as error:
            self._end()
            raise SandboxError(f"{who} {error}") from None
        except BaseException:
            self._end()
            raise
        if "raised" in answer:
            if answer["raised"] == ConfigurationError.__name__:
                raise ConfigurationError(answer["said"])
            said = " ".join(answer["said"].split())
            if answer["raised"] == WrongAnswerError.__name__:
                raise SandboxError(f"{who} answered wrongly: {said}")
            raise SandboxError(f"{who} raised {answer['raised']}: {said}")
        self._process.modules = answer["modules"]
        return answer["value"]

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            _nursery.learn(self._process.modules)
            self._process = None


class GoneError(Exception):
    """A process that gave no answer; the text goes on after its name."""


class Watched:
    """A process in a group of its own that answers over a socket, and is killed if it does not."""

    def __init__(self, process: int, channel: socket.socket, wait: Callable[[], int]) -> None:
        """Watch a process.

        Args:
            process: Its number, which is also that of its group.
            channel: The socket to it.
            wait: Returns how it has ended, as `os.waitpid` says it.
        """
        self.modules: list[str] = []
        self.peak = 0
        self._process = process
        self._channel = channel
        self._wait = wait
        self._over = False

    def ask(self, request: Mapping[str, Any], seconds: float, memory: int) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            GoneError: There is none within the limits.
        """
        deadline = time.monotonic() + seconds
        floor = used_memory(self._process)
        data = json.dumps(request).encode()
        message = bytearray(len(data).to_bytes(warm.LENGTH, "little") + data)
        received = bytearray()
        self._channel.settimeout(TICK)
        looks = 0
        while True:
            looks += 1
            with contextlib.suppress(TimeoutError):
                if self._exchange(message, received):
                    found: dict[str, Any] = json.loads(received[warm.LENGTH :])
                    return found
            if time.monotonic() > deadline:
                raise GoneError(f"took longer than {seconds:g} s")
            used = used_memory(self._process, whole=looks % _FAMILY_LOOK == 0) - floor
            self.peak = max(self.peak, used)
            if used > memory:
                raise GoneError(f"used more than {memory // MEGABYTE} MB of memory")

    def _exchange(self, message: bytearray, received: bytearray) -> bool:
        """Send or receive a part, and return whether the answer is whole."""
        try:
            if message:
                del message[: self._channel.send(message)]
                return False
            block = self._channel.recv(warm.BLOCK)
        except (BrokenPipeError, ConnectionResetError):
            block = b""
        if not block:
            raise GoneError(self._last_words())
        received += block
        if len(received) > MAX_ANSWER:
            raise GoneError(f"answered more than {MAX_ANSWER // MEGABYTE} MB")
        length = int.from_bytes(received[: warm.LENGTH], "little")
        return len(received) >= warm.LENGTH + length

    def end(self) -> None:
        """Kill the process with everything that it started."""
        if not self._over:
            # While it is there, its children can be found by it.
            kill(self._process)
            self._wait()
            self._over = True
        self._channel.close()

    def _last_words(self) -> str:
        """Return how the process ended; its number may be another's from then on."""
        kill(self._process, group_only=True)
        status = self._wait()
        self._over = True
        if os.WIFSIGNALED(status):
            return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"ended without an answer, with exit code {os.WEXITSTATUS(status)}"


class _Nursery:
    """The warm process of this process, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def fork(self, modules: Sequence[str]) -> Watched:
        """Return a new sandbox's process.

        Raises:
            ConfigurationError: None can be made.
        """
        ours, theirs = socket.socketpair()
        request = {
            "do": "fork",
            "modules": [*_LIBRARIES, *modules],
            "path": [str(Path(entry).absolute()) for entry in sys.path],
            "environment": {
                name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)
            },
            "folder": str(Path.cwd()),
        }
        with theirs:
            handles = [theirs.fileno(), _STANDARD_ERROR]
            try:
                try:
                    process = self._ask(request, handles)["process"]
                except ConfigurationError:
                    # The warm process was killed since; nothing of anybody's ran in it.
                    process = self._ask(request, handles)["process"]
            except ConfigurationError:
                ours.close()
                raise
        return Watched(process, ours, partial(self._wait, process))

    def learn(self, modules: Sequence[str]) -> None:
        """Let later sandboxes find libraries imported; nothing waits for it."""
        with self._lock, contextlib.suppress(OSError):
            if modules and self._channel is not None and self._owner == os.getpid():
                self._channel.sendall(_line({"do": "learn", "modules": list(modules)}))

    def close(self) -> None:
        """End the warm process, and with it every sandbox."""
        if self._channel is not None:
            self._channel.close()
        if self._server is not None and self._owner == os.getpid():
            self._server.kill()
            self._server.wait()
        self._server = self._channel = None

    def _wait(self, process: int) -> int:
        try:
            return int(self._ask({"do": "wait", "process": process})["status"])
        except ConfigurationError:
            # With the warm process, its sandboxes died.
            return signal.SIGKILL

    def _ask(self, request: Mapping[str, Any], handles: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                channel = self._opened()
                data = _line(request)
                sent = socket.send_fds(channel, [data], handles)
                channel.sendall(data[sent:])
                answer = b""
                while not answer.endswith(b"\n"):
                    block = channel.recv(warm.BLOCK)
                    if not block:
                        raise ConnectionResetError("it was killed")
                    answer += block
            except OSError as error:
                self.close()
                raise ConfigurationError(
                    f"the process that gates run in is gone ({error}); evaluate again."
                ) from None
        found: dict[str, Any] = json.loads(answer)
        return found

    def _opened(self) -> socket.socket:
        """Return the socket to the warm process, started unless it runs."""
        if self._owner != os.getpid():
            # Whoever forked this process goes on using it.
            self._server = self._channel = None
        if self._channel is None:
            ours, theirs = socket.socketpair()
            ours.settimeout(_PATIENCE)
            with theirs:
                self._server = subprocess.Popen(  # noqa: S603 (this interpreter)
                    [sys.executable, "-c", _START, str(theirs.fileno()), json.dumps(sys.path)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # A Control-C is for whoever waits; this process goes with it.
                    start_new_session=True,
                )
            self._channel, self._owner = ours, os.getpid()
            atexit.register(self.close)
        return self._channel


_nursery: Final = _Nursery()


def used_memory(process: int, *, whole: bool = True) -> int:
    """Return the bytes of memory that a process has, or its whole group; 0 where none can tell."""
    members = _group(process) if whole else [process]
    total = 0
    for member in members:
        with contextlib.suppress(OSError, IndexError, ValueError):
            # Of what is resident, the files that others map as well are not its own.
            fields = Path(f"/proc/{member}/statm").read_text().split()
            total += (int(fields[1]) - int(fields[2])) * _PAGE
    return total


def kill(process: int, *, group_only: bool = False) -> None:
    """Kill a process group, and its children that left it."""
    strays = [] if group_only else _descendants(process)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
    for stray in strays:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(stray, signal.SIGKILL)


def _group(leader: int) -> list[int]:
    """Return the processes of a group, and the descendants of its leader."""
    table = warm.processes()
    members = [number for number, (_, group) in table.items() if group == leader]
    return sorted({*members, *_descendants(leader, table)})


def _descendants(process: int, table: Mapping[int, tuple[int, int]] | None = None) -> list[int]:
    table = warm.processes() if table is None else table
    found, frontier = set[int](), {process}
    while frontier:
        frontier = {number for number, (parent, _) in table.items() if parent in frontier} - found
        found |= frontier
    return sorted(found)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
