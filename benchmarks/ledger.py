"""Compare what proof costs with what it is made of, in the same run.

A leaf costs a transaction of several rows; the yardstick is a transaction of one row on the
same database. Serving a stage from the signed log costs a few queries and a signature; the
yardstick is reading and hashing the model's bytes. Checking an inclusion proof is hashing.
Where nothing waits for a disk, CPU time is taken: wall time says more about the neighbours.
"""

import hashlib
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.registry import Registry, open_registry

SINGLES = 200
BATCH = 10_000
TREE = 1 << 16
ROUNDS = 7
MODEL = 16 << 20

SINGLE_LIMIT = 0.8  # of the one-row commits a second
BATCH_LIMIT = 50_000  # leaves a second
PROOF_LIMIT = 50.0  # microseconds
RESOLVE_LIMIT = 5.0  # milliseconds above reading and hashing


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call takes."""
    began = clock()
    call()
    return clock() - began


def one_row(tx: Transaction) -> None:
    """Commit one row."""
    subject = secrets.token_hex(8)
    tx.conn.execute(sa.insert(tables.attempt).values(subject=subject, count=1))


def body() -> dict[str, object]:
    """Return the body of a leaf."""
    return {"pack": secrets.token_hex(16), "bytes": 1 << 20, "chunks": 7}


def one_leaf(tx: Transaction) -> None:
    """Commit one leaf."""
    ledger.append(tx, action="prune", subject="x", body=body(), actor="a" * 32)


def singles(registry: Registry) -> float:
    """Return the leaves a second over the one-row commits a second, in turns."""
    taken: dict[str, list[float]] = {"row": [], "leaf": []}
    for _ in range(SINGLES):
        taken["row"].append(seconds(lambda: registry.catalog.write(one_row)))
        taken["leaf"].append(seconds(lambda: registry.catalog.write(one_leaf)))
    row, leaf = median(taken["row"]), median(taken["leaf"])
    print(
        f"one-row commit {row * 1e3:.2f} ms, one leaf {leaf * 1e3:.2f} ms, ratio {row / leaf:.2f}"
    )
    return row / leaf


def batches(registry: Registry) -> float:
    """Return the leaves a second of one large batch, the best of a few."""
    entries = [("prune", "x", body()) for _ in range(BATCH)]
    best = min(
        seconds(
            lambda: registry.catalog.write(ledger.append_many, entries, "a" * 32),
            time.process_time,
        )
        for _ in range(5)
    )
    print(f"{BATCH} leaves in a batch: {BATCH / best:,.0f} a second of CPU time")
    return BATCH / best


def proofs() -> float:
    """Return the microseconds that an inclusion proof takes to check."""
    levels = [[hashlib.sha256(str(number).encode()).digest() for number in range(TREE)]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append(
            [merkle.node_hash(*below[place : place + 2]) for place in range(0, len(below), 2)]
        )
    path = merkle.inclusion_proof(12_345, TREE, lambda level, index: levels[level][index])
    leaf, root = levels[0][12_345], levels[-1][0]
    if not merkle.verify_inclusion(leaf, 12_345, TREE, path, root):
        raise SystemExit("the proof does not verify")
    times = [
        seconds(lambda: merkle.verify_inclusion(leaf, 12_345, TREE, path, root))
        for _ in range(2_000)
    ]
    print(f"an inclusion proof in {TREE} leaves is checked in {median(times) * 1e6:.1f} µs")
    return median(times) * 1e6


def resolving(registry: Registry, folder: Path) -> float:
    """Return the milliseconds of a resolve that come on top of reading and hashing the bytes."""
    project = "bench"
    registry.set_policy(project, Policy.of({"promotion": {"production": "automatic"}}))
    run = registry.start_run(project, "run-1")
    data = secrets.token_bytes(MODEL)
    checkpoint = registry.publish_checkpoint(run, {"model.bin": data}, step=1)
    model = registry.publish_model(checkpoint)
    for gate in registry.policy(project).required():
        verdict = Verdict(
            project=project,
            artifact=model.id,
            gate=gate,
            passed=True,
            policy=registry.policy(project).digest,
            baseline=None,
            evaluation=None,
            gate_code="0" * 64,
            reasons=[],
            values={},
            evidence=None,
        )
        signed = registry.keys.load("service").sign_statement(verdict.payload(registry.origin))
        registry.append("verdict", model.id, signed.as_body())
    registry.promote(model.reference, "production")
    expected = digest.sha256(data)
    cached = registry.fetch(model.id, folder / "cached") / "model.bin"

    def read() -> str:
        return digest.sha256(cached.read_bytes())

    def resolve_and_read() -> bool:
        found = registry.resolve(f"{project}@production")
        return found.model == model and read() == expected

    with_proof, without = [], []
    for _ in range(ROUNDS * 3):
        without.append(seconds(read, time.process_time))
        with_proof.append(seconds(resolve_and_read, time.process_time))
    above = (median(with_proof) - median(without)) * 1e3
    print(
        f"CPU time: reading and hashing {MODEL >> 20} MiB {median(without) * 1e3:.1f} ms, "
        f"resolved as well {median(with_proof) * 1e3:.1f} ms: {above:.2f} ms above"
    )
    return above


def main() -> int:
    """Print the figures and return 1 if one is beyond its limit."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        with open_registry(folder / "home", actor="bench") as registry:
            ratio = singles(registry)
            above = resolving(registry, folder)
            rate = batches(registry)
        micros = proofs()
    return int(
        ratio < SINGLE_LIMIT or rate < BATCH_LIMIT or micros > PROOF_LIMIT or above > RESOLVE_LIMIT
    )


if __name__ == "__main__":
    sys.exit(main())
