"""What the kernel is asked for, in which order, seen from outside the process."""

import re
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from artifact_pipelines.store.files import FileBackend

def mark(name):
    os.access("/mark/" + name, os.F_OK)

backend = FileBackend(Path(sys.argv[1]))
mark("put")
backend.put("heads/one", b"bytes")
mark("put_if_absent")
backend.put("leaves/one", b"bytes", if_absent=True)
mark("create")
with backend.create("packs/ab/one") as writer:
    writer.write(b"by" * 1000)
    writer.write(b"tes")
    writer.commit()
mark("again")
backend.put("leaves/one", b"bytes", if_absent=True)
mark("delete")
backend.delete("heads/one")
mark("end")
"""
TRACED = (
    "access,faccessat,faccessat2,fsync,fdatasync,link,linkat,mkdir,mkdirat,"
    "rename,renameat,renameat2,unlink,unlinkat,write"
)
Event = tuple[str, str]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Event]]:
    """The calls that each operation of a backend makes: their names and paths."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced").resolve()
    command = ["strace", "-f", "-y", "-s", "400", "-e", f"trace={TRACED}", "-o"]
    ran = subprocess.run(
        [*command, str(folder / "trace"), sys.executable, "-c", SCRIPT, str(folder / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in ran.stderr:
        pytest.skip("this process may not trace others")
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[Event]] = {}
    part: list[Event] = []
    for line in (folder / "trace").read_text().splitlines():
        if mark := re.search(r'"/mark/(\w+)"', line):
            part = found.setdefault(mark[1], [])
        elif call := re.match(r"\d+ +(\w+)\((.*)\) += \d+", line):
            paths = re.findall(rf'["<]{re.escape(str(folder / "store"))}/?([^">]*)[">]', call[2])
            if paths:
                name = re.sub(r"at\d?$", "", call[1])
                part.append((name, re.sub("^tmp/.+", "tmp/*", paths[-1])))
    return found


@pytest.mark.parametrize(
    "operation, target, naming",
    [
        ("put", "heads/one", "rename"),
        ("put_if_absent", "leaves/one", "link"),
        ("create", "packs/ab/one", "link"),
    ],
)
def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_return(
    trace: dict[str, list[Event]], operation: str, target: str, naming: str
) -> None:
    calls = trace[operation]
    named = calls.index((naming, target))
    synced = calls.index(("fsync", "tmp/*"))
    written = [place for place, (name, _) in enumerate(calls) if name == "write"]

    assert written
    assert max(written) < synced < named
    assert ("fsync", target.rpartition("/")[0]) in calls[named:]


def test_a_new_folder_is_durable_before_anything_is_named_in_it(
    trace: dict[str, list[Event]],
) -> None:
    calls = trace["create"]
    order = [
        calls.index(event)
        for event in (
            ("mkdir", "packs"),
            ("fsync", ""),
            ("mkdir", "packs/ab"),
            ("fsync", "packs"),
            ("link", "packs/ab/one"),
            ("fsync", "packs/ab"),
        )
    ]

    assert order == sorted(order)


def test_what_another_placed_is_made_durable_before_it_is_relied_on(
    trace: dict[str, list[Event]],
) -> None:
    assert trace["again"] == [("fsync", "leaves")]


def test_a_deletion_is_durable_when_it_returns(trace: dict[str, list[Event]]) -> None:
    assert trace["delete"] == [("unlink", "heads/one"), ("fsync", "heads")]
