"""The process that sandboxes are forked from, with heavy libraries imported once for all.

It has one thread and runs nobody's code but its own: a sandbox is its child, in a process
group of its own. Everything goes when the process that started it goes.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

LENGTH: Final = 8
BLOCK: Final = 1 << 20

# Libraries that neither start threads nor read the network when they are imported.
_FORKABLE: Final = frozenset(
    {
        "great_expectations", "numpy", "pandas", "pandera", "pyarrow", "safetensors", "scipy",
        "sklearn",
    }
)  # fmt: skip
_SET_DEATH_SIGNAL: Final = 1
_ADOPT_ORPHANS: Final = 36


def serve(control: int) -> NoReturn:
    """Fork a sandbox for each request that comes over a socket, until it closes."""
    channel = socket.socket(fileno=control)
    _call_kernel(_ADOPT_ORPHANS, 1)
    pending, handles, sandboxes = b"", list[int](), set[int]()
    while True:
        data, received, _, _ = socket.recv_fds(channel, BLOCK, 2)
        if not data:
            # With it go the sandboxes, which die with their parent.
            os._exit(0)
        handles += received
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["do"] == "learn":
                _learn(message["modules"])
                continue
            if message["do"] == "fork":
                answer = _fork(message, channel, *handles)
                sandboxes.add(answer["process"])
                while handles:
                    os.close(handles.pop())
            else:
                answer = {"status": _wait(message["process"], sandboxes)}
            channel.sendall(json.dumps(answer).encode() + b"\n")


def _wait(process: int, sandboxes: set[int]) -> int:
    """Return how a sandbox has ended; what it left behind is ended with it."""
    sandboxes.discard(process)
    try:
        status = os.waitpid(process, 0)[1]
    except ChildProcessError:
        status = signal.SIGKILL
    # Whose parent has died is this one's; whose they were cannot be told any more.
    while not sandboxes and (strays := _children()):
        for stray in strays:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(stray, signal.SIGKILL)
                os.waitpid(stray, 0)
    return status


def _children() -> list[int]:
    return [number for number, (parent, _) in processes().items() if parent == os.getpid()]


def _fork(
    message: Mapping[str, Any], control: socket.socket, work: int, output: int
) -> dict[str, Any]:
    _learn(message["modules"])
    process = os.fork()
    if process == 0:
        control.close()
        _become_sandbox(message, work, output)
    return {"process": process}


def _learn(modules: list[str]) -> None:
    """Import what sandboxes need, as far as it does no harm to be forked afterwards."""
    # Read when the library is first imported: nothing of a user's leaves the machine unasked.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    for name in modules:
        if name.partition(".")[0] in _FORKABLE:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _become_sandbox(message: Mapping[str, Any], work: int, output: int) -> NoReturn:
    """Do one job after the other as another process, and never come back."""
    code = 1
    try:
        os.setsid()
        _die_with_parent()
        # Standard output is whoever asked's to write on.
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path[:] = message["path"]
        os.environ.clear()
        os.environ.update(message["environment"])
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        os.chdir(message["folder"])
        _work(socket.socket(fileno=work))
        code = 0
    except BaseException:  # noqa: BLE001 (this process must end here, whatever happens)
        traceback.print_exc()
    finally:
        os._exit(code)


def _work(channel: socket.socket) -> None:
    jobs = importlib.import_module("artifact_pipelines.gates.jobs")
    while (request := receive(channel)) is not None:
        try:
            answer = {"value": jobs.JOBS[request["job"]](**request["arguments"])}
        except (Exception, SystemExit) as error:  # noqa: BLE001 (what it raises is its answer)
            _print_theirs(error)
            answer = {"raised": type(error).__name__, "said": str(error)}
        sys.stdout.flush()
        answer["modules"] = [
            name
            for name in sys.modules
            if name.partition(".")[0] in _FORKABLE and name.count(".") <= 1 and "._" not in name
        ]
        send(channel, answer)


def _print_theirs(error: BaseException) -> None:
    """Print where people's own code raised an error, and nothing where it did not."""
    ours = str(Path(__file__).parent.parent) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<frozen "))
        and frame.filename != importlib.__file__
    ]
    if frames:
        lines = traceback.format_list(frames) + traceback.format_exception_only(error)
        sys.stderr.write("Traceback (most recent call last):\n" + "".join(lines))


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    channel.sendall(len(data).to_bytes(LENGTH, "little") + data)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next message, or None where the other end has closed."""
    data = _exactly(channel, LENGTH)
    if data is None:
        return None
    data = _exactly(channel, int.from_bytes(data, "little"))
    found: dict[str, Any] | None = None if data is None else json.loads(data)
    return found


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        block = channel.recv(min(count - len(data), BLOCK))
        if not block:
            return None
        data += block
    return bytes(data)


def _die_with_parent() -> None:
    _call_kernel(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _call_kernel(option: int, value: int) -> None:
    """Set how the kernel treats this process, where it is Linux's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def processes() -> dict[int, tuple[int, int]]:
    """Return the parent and group of every process, where the system tells."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything.
            fields = entry.read_text().rpartition(")")[2].split()
            found[int(entry.parent.name)] = (int(fields[1]), int(fields[2]))
    return found
