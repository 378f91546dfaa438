"""Measure the store against the disk, against cp and against other tools, in one run.

    python benchmarks/series.py [CACHE]          (with torch: the series that are stored)
    python benchmarks/store.py [CACHE [WORK]]    (the figures; WORK is the disk to measure)

Each line is a ratio to something that was measured moments before or after. Peers that are
not installed are skipped with a word: `borg`, `restic` and `git lfs` on the path, `dvc` and
`mlflow` on the path or in the variables DVC and MLFLOW_PYTHON. A missed limit is marked, and
the command ends with 1.
"""

import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.store import chunking
from artifact_pipelines.store.writing import Stream

ROUNDS = 3
BIG = 8 << 30  # bytes of the file that memory is measured with
PROJECT = "bench"


class Report:
    """The figures so far."""

    def __init__(self) -> None:
        """Begin with none."""
        self.missed = 0

    def line(self, what: str, ratio: float, limit: float | None, note: str = "") -> None:
        """Print a figure and whether it is within its limit."""
        verdict = ""
        if limit is not None:
            kept = ratio <= limit
            self.missed += not kept
            verdict = f"  limit {limit:g}  {'ok' if kept else 'MISSED'}"
        print(f"{what:66} {ratio:7.3f}{verdict}  {note}", flush=True)


def main() -> int:
    """Print every figure that can be taken here."""
    named = [Path(argument) for argument in sys.argv[1:]]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = named[0] if named else base / "artifact-pipelines" / "series"
    place = named[1] if named[1:] else None
    if not (cache / "complete").exists():
        print(f"skipped: no series in {cache}; make them with: python benchmarks/series.py")
        return 0
    report = Report()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        work = Path(folder)
        load = " ".join(f"{part:.1f}" for part in os.getloadavg())
        print(f"file system: {file_system(work)}; load {load}; median of {ROUNDS} of rounds")
        ingest(report, cache, work)
        peers(report, cache, work)
        nothing_to_share(report, cache, work)
        tiers(report, cache, work)
        restore(report, cache, work)
        cuts(report)
        memory(report, cache, work)
    return int(report.missed > 0)


# Ours


def checkpoints(cache: Path, *series: str) -> Iterator[tuple[str, Path]]:
    """Yield the checkpoints of some series: the series and the folder of each."""
    for name in series:
        for folder in sorted((cache / name).iterdir()):
            yield name, folder


def files(folder: Path) -> dict[str, Path | bytes]:
    """Return the files of a checkpoint by their names."""
    return {path.name: path for path in sorted(folder.iterdir())}


def store(registry: Registry, cache: Path, *series: str, only: str = "") -> list[str]:
    """Publish series, perhaps one file of each, and return the references of their checkpoints."""
    found = []
    for name in series:
        run = registry.start_run(PROJECT, name)
        for step, (_, folder) in enumerate(checkpoints(cache, name)):
            offered = {path: file for path, file in files(folder).items() if only in path}
            found.append(registry.publish_checkpoint(run, offered, step=step).reference)
    return found


def stored(home: Path) -> int:
    """Return the bytes that a home's store takes."""
    return size(home / "store")


def ingest(report: Report, cache: Path, work: Path) -> None:
    """Compare storing a series that deduplicates with writing its unique bytes alone."""
    series = ("full", "frozen", "lora")
    logical = sum(size(folder) for _, folder in checkpoints(cache, *series))
    ours, floors, direct, unique = [], [], [], 0
    for number in range(ROUNDS):
        home = work / f"home-{number}"
        with open_registry(home, actor="bench") as registry:
            ours.append(timed(functools.partial(store, registry, cache, *series)))
        unique = sum(
            file.stat().st_size for file in (home / "store" / "packs").rglob("*") if file.is_file()
        )
        floors.append(timed(functools.partial(write_and_sync, work / "floor", unique)))
        direct.append(timed(functools.partial(stream_and_sync, work / "floor", unique)))
        shutil.rmtree(home)
    note = f"{logical / 1e6:.0f} MB, unique {unique / 1e6:.0f}, floor {median(floors):.2f} s"
    report.line(
        "ingest, both digests / write + fsync of unique bytes",
        median(ours) / median(floors),
        2.0,
        note,
    )
    report.line(
        "ingest / the same past the page cache, as we write",
        median(ours) / median(direct),
        None,
        f"floor {median(direct):.2f} s, both digests alone {digests(cache, *series):.2f} s",
    )


def nothing_to_share(report: Report, cache: Path, work: Path) -> None:
    """Compare storing bytes that are all new with copying them."""
    sources = [folder for _, folder in checkpoints(cache, "full")]
    ours, copies, spent = [], [], []
    for number in range(ROUNDS):
        home = work / f"home-{number}"
        with open_registry(home, actor="bench") as registry:
            begun = time.process_time()
            ours.append(timed(functools.partial(store, registry, cache, "full")))
            spent.append(time.process_time() - begun)
        shutil.rmtree(home)

        def copy() -> None:
            for folder in sources:
                subprocess.run(
                    ["cp", "-r", "--reflink=never", folder, work / f"copy-{folder.name}"],
                    check=True,
                )
            subprocess.run(["sync", "-f", str(work)], check=True)

        copies.append(timed(copy))
        for folder in sources:
            shutil.rmtree(work / f"copy-{folder.name}")
    report.line(
        "ingest with nothing to deduplicate / cp + sync", median(ours) / median(copies), 1.3
    )
    report.line("CPU-seconds of it for a gigabyte", median(spent) / gigabytes(*sources), None)


def tiers(report: Report, cache: Path, work: Path) -> None:
    """Compare stored bytes, hot and cold, with the raw ones and with restic."""
    backup = restic_bytes(cache, work, "frozen")
    for name, only, limit in (
        ("frozen", "", None),
        ("lora", "", None),
        ("full", "", 0.80),
        ("bf16", "", 0.30),
        ("bf16", "model", 0.30),
    ):
        raw = sum(size(folder, only) for _, folder in checkpoints(cache, name))
        home = work / "tier"
        with open_registry(home, actor="bench") as registry:
            references = store(registry, cache, name, only=only)
            hot = stored(home)
            registry.archive(references)
            for _ in range(2):
                registry.prune(grace=0)
            cold = stored(home)
        shutil.rmtree(home)
        what = f"'{name}'" + (", weights alone" if only else "")
        report.line(
            f"stored bytes of {what}, hot / raw", hot / raw, None, f"{raw / 1e6:.0f} MB raw"
        )
        report.line(f"stored bytes of {what}, cold / raw", cold / raw, limit)
        if name == "frozen" and backup:
            report.line("stored bytes of 'frozen', hot / restic", hot / backup, 1.0)
            report.line("stored bytes of 'frozen', cold / restic", cold / backup, 0.8)
    report.line("the least that 'bf16' can take, number by number / raw", least(cache), None)


def least(cache: Path) -> float:
    """Return the entropy of the numbers of `bf16`, by what each is of what was in its place.

    As in the cold tier, the checkpoint in the middle stands for itself. Whoever codes number
    by number, knowing what stood in the same place of that one, cannot take less.
    """
    series = [numbers(folder) for _, folder in checkpoints(cache, "bf16")]
    middle = len(series) // 2
    bits = count = 0.0
    for kind, base in series[middle].items():
        for place, found in enumerate(series):
            pairs = base.astype("u4") << 16 | found[kind]
            bits += entropy(base) if place == middle else entropy(pairs) - entropy(base)
            count += 16 * len(base)
    return bits / count


def numbers(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the weights and the two moments of a checkpoint in bf16, as whole numbers."""
    kinds: dict[str, list[bytes]] = {}
    for name in ("model", "optimizer"):
        data = (folder / f"{name}.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        for key in sorted(header.keys() - {"__metadata__"}):
            first, last = header[key]["data_offsets"]
            kind = key.rpartition(".")[2] if name == "optimizer" else name
            kinds.setdefault(kind, []).append(data[start + first : start + last])
    return {kind: np.frombuffer(b"".join(parts), "<u2") for kind, parts in kinds.items()}


def entropy(values: NDArray[Any]) -> float:
    """Return the bits of all values, each coded by how often it occurs."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def restore(report: Report, cache: Path, work: Path) -> None:
    """Compare a verified restore of one checkpoint with a copy of its files."""
    home = work / "restore"
    ours, copies, spent = [], [], []
    with open_registry(home, actor="bench") as registry:
        reference = store(registry, cache, "full")[-1]
        source = cache / "full" / "0003"
        for number in range(ROUNDS + 2):
            target, copy = work / f"restored-{number}", work / f"copied-{number}"
            begun = time.process_time()
            ours.append(timed(functools.partial(registry.fetch, reference, target)))
            spent.append(time.process_time() - begun)
            subprocess.run(["diff", "-r", str(target), str(source)], check=True)

            def copied(to: Path = copy) -> None:
                subprocess.run(["cp", "-r", "--reflink=never", source, to], check=True)
                subprocess.run(["sync", "-f", str(to)], check=True)

            copies.append(timed(copied))
            shutil.rmtree(target)
            shutil.rmtree(copy)
    shutil.rmtree(home)
    report.line(
        "restore of one, verified and durable / cp + sync", median(ours) / median(copies), 1.2
    )
    report.line("CPU-seconds of it for a gigabyte", median(spent) / gigabytes(source), None)


def cuts(report: Report) -> None:
    """Measure how fast a file of no known format is cut."""
    data = os.urandom(64 << 20)
    begun = time.process_time()
    found = sum(1 for _ in chunking.cuts(lambda at, length: data[at : at + length], len(data)))
    rate = len(data) / 1e9 / (time.process_time() - begun)
    report.line("cuts by content, GB for a CPU-second", rate, None, f"{found} cuts")


STEPS = {
    "bare": "registry.publish_dataset('bench', 'bare', {'file': b'x' * 1000})",
    "big": "registry.publish_dataset('bench', 'big', {'big.bin': Path(sys.argv[2])})",
    "publish": "[registry.publish_checkpoint(registry.start_run('bench', 'full'),"
    " {file.name: file for file in folder.iterdir()}, step=step)"
    " for step, folder in enumerate(sorted(Path(sys.argv[2]).iterdir()))]",
    "fetch, hot": "registry.fetch('bench/full@0', Path(sys.argv[1]) / 'hot')",
    "archive": "registry.archive(['bench/full'])",
    "fetch, cold": "registry.fetch('bench/full@0', Path(sys.argv[1]) / 'cold')",
    "scrub": "registry.scrub()",
    "restore to hot": "registry.restore(['bench/full'])",
}


def memory(report: Report, cache: Path, work: Path) -> None:
    """Compare the memory of processes that move many bytes with one that moves none."""
    big, home = work / "big.bin", work / "memory"
    with big.open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.truncate(BIG)
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from artifact_pipelines.registry import open_registry\n"
        "with open_registry(Path(sys.argv[1]), actor='bench') as registry:\n"
        "    {}\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
    )

    def peak(what: str) -> int:
        source = big if what == "big" else cache / "full"
        ran = subprocess.run(
            [sys.executable, "-c", script.format(STEPS[what]), str(home), str(source)],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(ran.stdout) * 1024

    bare = peak("bare")
    for what in STEPS:
        if what == "bare":
            continue
        above = peak(what) - bare
        named = "8 GB file" if what == "big" else f"{what} of 'full'"
        report.line(
            f"memory above the bare process, {named} / 150 MB",
            above / 150e6,
            1.0,
            f"{above / 1e6:.0f} MB, bare {bare / 1e6:.0f} MB",
        )
    big.unlink()
    shutil.rmtree(home)


# Others


def peers(report: Report, cache: Path, work: Path) -> None:
    """Compare storing the same series with other tools, each of them once."""
    series = ("full", "frozen", "lora")
    folders = [(f"{name}-{folder.name}", folder) for name, folder in checkpoints(cache, *series)]
    for name, limit, run in (
        ("borg", 0.5, borg),
        ("restic", 0.2, restic),
        ("git lfs", None, git_lfs),
        ("dvc", 0.2, dvc),
        ("mlflow", None, mlflow),
    ):
        # Beside each of them once more, since a shared machine is never the same twice.
        home = work / "home"
        with open_registry(home, actor="bench") as registry:
            begun = time.process_time()
            ours = timed(functools.partial(store, registry, cache, *series))
            spent = time.process_time() - begun
        shutil.rmtree(home)
        place = work / "peer"
        place.mkdir()
        before = children()
        try:
            taken = run(folders, place)
        finally:
            shutil.rmtree(place)
        if taken is None:
            print(f"skipped: {name} is not installed")
            continue
        report.line(
            f"ingest / {name}",
            ours / taken,
            limit,
            f"{ours:.2f} s against {taken:.2f} s, "
            f"CPU {spent:.1f} against {children() - before:.1f}",
        )


Folders = list[tuple[str, Path]]


def borg(folders: Folders, place: Path) -> float | None:
    """Return the seconds that borg takes, one archive for each checkpoint."""
    if shutil.which("borg") is None:
        return None
    environ = {
        **os.environ,
        "BORG_BASE_DIR": str(place / "base"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    call(["borg", "init", "-e", "none", str(place / "repo")], environ)

    def work() -> None:
        for name, folder in folders:
            call(["borg", "create", f"{place}/repo::{name}", "."], environ, folder)

    return timed(work)


def restic(folders: Folders, place: Path) -> float | None:
    """Return the seconds that restic takes, one snapshot for each checkpoint."""
    if shutil.which("restic") is None:
        return None
    environ = {
        **os.environ,
        "RESTIC_PASSWORD": "bench",
        "RESTIC_REPOSITORY": str(place / "repo"),
        "RESTIC_CACHE_DIR": str(place / "cache"),
    }
    call(["restic", "init", "-q"], environ)

    def work() -> None:
        for _, folder in folders:
            call(["restic", "backup", "-q", "."], environ, folder)

    return timed(work)


def restic_bytes(cache: Path, work: Path, series: str) -> int | None:
    """Return the bytes that restic stores for a series."""
    place = work / "restic"
    place.mkdir()
    try:
        folders = [(folder.name, folder) for _, folder in checkpoints(cache, series)]
        return size(place / "repo") if restic(folders, place) is not None else None
    finally:
        shutil.rmtree(place)


def git_lfs(folders: Folders, place: Path) -> float | None:
    """Return the seconds that git with LFS takes, one commit for each checkpoint."""
    if shutil.which("git-lfs") is None:
        return None
    environ = {**os.environ, "HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1"}
    repo = place / "repo"
    repo.mkdir()
    for command in (
        ["init", "-q"],
        ["config", "user.email", "bench@localhost"],
        ["config", "user.name", "bench"],
        ["lfs", "install", "--local"],
        ["lfs", "track", "*.safetensors"],
    ):
        call(["git", *command], environ, repo)

    def work() -> None:
        for name, folder in folders:
            shutil.copytree(folder, repo / "data", dirs_exist_ok=True)
            call(["git", "add", "-A"], environ, repo)
            call(["git", "commit", "-q", "--allow-empty", "-m", name], environ, repo)

    return timed(work)


def dvc(folders: Folders, place: Path) -> float | None:
    """Return the seconds that DVC takes, one `add` for each checkpoint."""
    command = os.environ.get("DVC") or shutil.which("dvc")
    if command is None:
        return None
    environ = {**os.environ, "HOME": str(place), "DVC_NO_ANALYTICS": "1"}
    repo = place / "repo"
    repo.mkdir()
    call([command, "init", "-q", "--no-scm"], environ, repo)

    def work() -> None:
        for name, folder in folders:
            shutil.copytree(folder, repo / name)
            call([command, "add", "-q", name], environ, repo)

    return timed(work)


def mlflow(folders: Folders, place: Path) -> float | None:
    """Return the seconds that MLflow takes to log each checkpoint's files."""
    python = os.environ.get("MLFLOW_PYTHON")
    if python is None:
        return None
    script = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri('sqlite:///' + sys.argv[1] + '/mlflow.db')\n"
        "mlflow.create_experiment('bench', artifact_location=sys.argv[1] + '/artifacts')\n"
        "mlflow.set_experiment('bench')\n"
        "for folder in sys.argv[2:]:\n"
        "    with mlflow.start_run():\n"
        "        mlflow.log_artifacts(folder)\n"
    )
    environ = {**os.environ, "HOME": str(place), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return timed(
        lambda: call(
            [python, "-c", script, str(place), *(str(folder) for _, folder in folders)], environ
        )
    )


# What is measured with


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes, on a disk that has nothing else to write."""
    os.sync()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def children() -> float:
    """Return the CPU-seconds of the processes that have ended so far."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def call(command: list[str], environ: dict[str, str], cwd: Path | None = None) -> None:
    """Run a command that must succeed, without its words."""
    subprocess.run(command, env=environ, cwd=cwd, check=True, capture_output=True)


def write_and_sync(path: Path, length: int) -> None:
    """Write as many bytes as were unique, the least that storing them can cost."""
    block = os.urandom(4 << 20)
    with path.open("wb", buffering=0) as file:
        for start in range(0, length, len(block)):
            file.write(block[: length - start])
        os.fsync(file.fileno())
    path.unlink()


def stream_and_sync(path: Path, length: int) -> None:
    """Write as many bytes as were unique, in the way that the store writes them."""
    block = os.urandom(4 << 20)
    with path.open("wb", buffering=0) as file, Stream(file.fileno()) as stream:
        for start in range(0, length, len(block)):
            stream.write(block[: length - start])
        stream.finish()
        os.fsync(file.fileno())
    path.unlink()


def digests(cache: Path, *series: str) -> float:
    """Return the seconds that both digests of series take, one beside the other."""
    found = [file for _, folder in checkpoints(cache, *series) for file in folder.iterdir()]

    def take(whole: Callable[[], Any]) -> None:
        room = memoryview(bytearray(1 << 20))
        for path in found:
            digest = whole()
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(room):
                    digest.update(room[:count])

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(take, (hashlib.sha256, blake3)))

    return timed(both)


def gigabytes(*folders: Path) -> float:
    """Return the gigabytes of the files below folders."""
    return sum(size(folder) for folder in folders) / 1e9


def size(folder: Path, only: str = "") -> int:
    """Return the bytes of the files below a folder, perhaps of some names."""
    return sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and only in file.name
    )


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    ran = subprocess.run(
        ["stat", "-f", "-c", "%T", str(folder)], check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
