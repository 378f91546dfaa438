"""Gates of a project that do what no gate should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from artifact_pipelines.gates.jobs import GateCase

FINE = {"passed": True, "reasons": ["it is fine"]}


def fine(case: GateCase, **arguments: Any) -> dict[str, Any]:
    """Pass, and say what it was called with."""
    assert case.model.is_dir()
    return {**FINE, "values": {**arguments, "process": os.getpid()}}


def rambles(_: GateCase) -> dict[str, object]:
    """Give reasons of several lines."""
    return {"passed": True, "reasons": ["first\n  second\n", "third"]}


def raises(_: GateCase) -> None:
    """Raise."""
    raise KeyError("colour")


def exits(_: GateCase) -> None:
    """End the interpreter."""
    sys.exit("enough")


def ends(_: GateCase) -> None:
    """End the process without a word."""
    os._exit(7)


def hangs(_: GateCase) -> None:
    """Never come back, whatever is asked politely."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def grows(_: GateCase) -> None:
    """Take memory without end."""
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)


def breeds(case: GateCase) -> dict[str, Any]:
    """Leave a process behind, in a session of its own."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
    case.model.joinpath("child").write_text(str(child.pid))
    return FINE


def breeds_and_ends(case: GateCase) -> None:
    """Leave a process behind, and go first."""
    breeds(case)
    os._exit(7)


def crashes(_: GateCase) -> None:
    """Read where nothing is."""
    os.kill(os.getpid(), signal.SIGSEGV)


def talks(_: GateCase) -> dict[str, Any]:
    """Write to standard output, in Python and below."""
    sys.stdout.write("from Python\n")
    subprocess.run(["echo", "from below"], check=True)  # noqa: S607
    return FINE


def chatters(_: GateCase) -> dict[str, Any]:
    """Answer with more than anybody reads."""
    return {**FINE, "values": {"x": "y" * 5_000_000}}


def keeps_nothing(_: GateCase) -> None:
    """Give nothing."""


def half(_: GateCase) -> dict[str, Any]:
    """Give no reason."""
    return {"passed": True, "reasons": []}


def maybe(_: GateCase) -> dict[str, Any]:
    """Give what is no truth value."""
    return {"passed": 1, "reasons": ["almost"]}


def homes(_: GateCase) -> dict[str, Any]:
    """Tell what it sees of the registry's settings, and where it is."""
    seen = sorted(name for name in os.environ if name.startswith("ARTIFACT_PIPELINES_"))
    return {**FINE, "values": {"seen": seen, "cwd": str(Path.cwd())}}
