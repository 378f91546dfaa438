"""Measure what a gigabyte costs the client's CPU on its way into a bucket.

    python benchmarks/s3_upload.py

A SeaweedFS server of this machine takes the bytes; it is the bottleneck of the time, so that
CPU is what is compared. Loopback has no TLS, and bodies are left unsigned as they are under
TLS: the cost of encryption comes on top.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from artifact_pipelines.registry import open_registry
from artifact_pipelines.store.s3 import S3Backend
from artifact_pipelines_tests.servers import environment, serving

SIZE = 512 << 20
PIECE = 16 << 20


def main() -> int:
    """Print the figures, and return 1 if one is below its limit."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "seaweedfs") as server:
        url = server.make_bucket("bench")
        source = Path(folder) / "model.safetensors"
        write_tensors(source)
        with environment({**server.environ, "AWS_UNSIGNED_PAYLOAD": "true"}):
            backend = S3Backend(f"{url}/alone")
            home = Path(folder) / "home"
            with open_registry(home, store_url=f"{url}/store", actor="bench") as registry:
                for what, limit, work in (
                    ("transfer alone", 1.2, lambda: send(backend, source)),
                    (
                        "publish, both digests",
                        0.55,
                        lambda: registry.publish_dataset("bench", "big", {source.name: source}),
                    ),
                ):
                    cpu, wall = spent(work)
                    rate = SIZE / 1e9 / cpu
                    missed += rate < limit
                    verdict = "ok" if rate >= limit else "MISSED"
                    print(
                        f"{what:24} {rate:.2f} GB per CPU-second  limit {limit}  {verdict}  "
                        f"({SIZE / 1e6 / wall:.0f} MB/s by the clock)"
                    )
    return int(missed > 0)


def write_tensors(path: Path) -> None:
    """Write a safetensors file of tensors that nobody has stored before."""
    header = {
        str(number): {
            "dtype": "U8",
            "shape": [PIECE],
            "data_offsets": [number * PIECE, (number + 1) * PIECE],
        }
        for number in range(SIZE // PIECE)
    }
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _ in header:
            file.write(os.urandom(PIECE))


def send(backend: S3Backend, source: Path) -> None:
    """Write a file's bytes as one object."""
    with source.open("rb", buffering=0) as file, backend.create("packs/00/one") as writer:
        while data := file.read(PIECE):
            writer.write(data)
        writer.commit()


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds of this process and those of the clock."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    sys.exit(main())
