"""Long histories for tests and benchmarks of scale, written to a catalog in bulk.

A history is what years of training leave behind: projects with versions of their data, runs
that go on from the run before, checkpoints that cite the one before, a model of each run.
Its records, ids, leaves and tree are real; its bytes were never there. The rows are those
that the fold would make of the same leaves, which `catalog/test_histories.py` checks.
"""

import gc
import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.domain import merkle

Rows = dict[str, list[tuple[Any, ...]]]

STEPS = 98  # checkpoints of a run: with the run and its model, a hundred artifacts
RUNS = 200  # of a project
DATASETS = ("images", "labels", "masks")
METRICS = (
    *("accuracy", "auc", "f1", "loss", "perplexity", "precision", "recall", "top5"),
    *("validation_accuracy", "validation_loss"),
)
ACTOR = "a" * 32
FILE_BYTES = 40_000_000

COLUMNS = {
    "artifact": (
        *("id", "seq", "kind", "project", "name", "step", "attempt", "version", "content"),
        *("record", "object", "annex", "size", "there", "training", "published", "state"),
        *("recalled", "tier"),
        *("run", "lock"),
    ),
    "artifact_file": ("artifact", "path", "size", "sha256", "media_type", "state"),
    "edge": ("child", "parent", "role", "kind"),
    "ancestry": ("child", "parent"),
    "metric": ("artifact", "name", "project", "kind", "value", "seq"),
    "parameter": ("artifact", "name", "number", "text"),
    "words": ("seq", "artifact", "text"),
    "run": ("id", "project", "name", "state", "reason", "seq"),
    "pack": ("id", "state", "session", "version", "size", "condemned_at"),
    "chunk": ("key", "pack", "offset", "stored", "length", "codec", "base", "key_id"),
    "artifact_pack": ("artifact", "pack"),
    "leaf": (
        *("seq", "time", "actor", "action", "subject", "project", "envelope", "body", "hash"),
        "nodes",
    ),
}


@dataclass
class History:
    """A history, made batch by batch; the same seed gives the same one.

    Attributes:
        artifacts: How many artifacts it has, to the next whole run.
        seed: What it is drawn from.
        seq: The next leaf.
        peaks: The roots of the tree's complete subtrees.
        count: How many artifacts were made.
        newest: The newest model of each project.
    """

    artifacts: int
    seed: int = 0
    seq: int = 0
    peaks: list[bytes] = field(default_factory=list)
    count: int = 0
    newest: dict[str, str] = field(default_factory=dict)
    _rows: Rows = field(default_factory=dict)
    _named: list[tuple[str, float]] = field(default_factory=list)
    _pack: str = ""
    _behind: str = ""
    _numbers: dict[str, int] = field(default_factory=dict)
    _random: random.Random = field(default_factory=random.Random)

    def batches(self, size: int = 20_000) -> Iterator[Rows]:
        """Yield the rows of some thousand artifacts at a time, by table."""
        self._random.seed(self.seed)
        self._rows = {name: [] for name in COLUMNS}
        project = 0
        begun = 0
        while self.count < self.artifacts:
            for _ in self._project(f"project-{project:04d}"):
                if self.count - begun >= size:
                    yield self._rows
                    self._rows = {name: [] for name in COLUMNS}
                    begun = self.count
                if self.count >= self.artifacts:
                    break
            project += 1
        yield self._rows

    def _project(self, project: str) -> Iterator[None]:
        """Make a project, run by run."""
        data: dict[str, str] = {}
        self._numbers = {}  # no artifact here cites one of another project
        last: str | None = None
        for number in range(RUNS):
            if number % 5 == 0:
                for name in DATASETS:
                    cited = [(f"dataset:{name}", data[name])] if name in data else []
                    data[name] = self._dataset(project, name, number // 5 + 1, cited)
            last = self._run(project, number, data, last)
            yield

    def _dataset(self, project: str, name: str, version: int, cited: list[tuple[str, str]]) -> str:
        facts = f'{{"rows":{1_000 * version}}}'
        files = [(f"{name}.parquet", 5_000_000)]
        said: dict[str, float] = {"facts.rows": 1_000 * version}
        return self._artifact(
            "dataset", project, name, files, cited, facts, version=version, said=said
        )

    def _run(self, project: str, number: int, data: dict[str, str], last: str | None) -> str:
        name = f"run-{number:05d}"
        cited = [(f"dataset:{one}", data[one]) for one in DATASETS]
        resumed = [] if last is None else [("resume", last)]
        rate = float(f"0.0{self._random.randint(1, 99):02d}")
        params = f'{{"lr":{rate},"seed":{number}}}'
        nonce = self._digest(project, name)[:32]
        run = self._artifact(
            "training_run",
            project,
            name,
            [("environment.txt", 4_000)],
            cited + resumed,
            "{}",
            begun=(params, nonce),
            said={"params.lr": rate, "params.seed": number},
        )
        files = [("model.safetensors", FILE_BYTES), ("optimizer.safetensors", 2 * FILE_BYTES)]
        parent: str | None = None
        model = ""
        for step in range(STEPS):
            inputs = cited if parent is None else [*cited, ("parent", parent)]
            if step % 20 == 0:
                inputs = [*inputs, ("evaluation:images", data["images"])]
            metrics = self._metrics(step, extra=step % 4 == 0)
            parent = self._artifact(
                "checkpoint", project, name, files, inputs, metrics, at=(run, step)
            )
        assert parent is not None
        facts = self._metrics(STEPS, extra=False)[:-1] + f',"step":{STEPS - 1}}}'
        model = self._artifact(
            "model",
            project,
            project,
            files[:1],
            [("checkpoint", parent), ("evaluation:images", data["images"]), *cited],
            facts,
            version=number + 1,
            said={"facts.step": STEPS - 1},
        )
        self.newest[project] = model
        body = (
            f'{{"name":"{name}","outcome":"finished","project":"{project}","reason":"",'
            f'"salt":"{self._digest(run, "end")[:32]}"}}'
        )
        finished = self.seq
        self._leaf("run_finish", run, project, body)
        self._rows["run"].append((run, project, name, "finished", "", finished))
        return parent

    def _metrics(self, step: int, *, extra: bool) -> str:
        """Return the facts of a checkpoint: ten metrics or eleven, better from step to step."""
        named = [
            (name, round(1 - 0.9 / (1 + step) + self._random.random() / 20, 4)) for name in METRICS
        ]
        if extra:
            named.append(("worst_slice", round(self._random.random(), 4)))
        inner = ",".join(f'"{name}":{_number(value)}' for name, value in named)
        self._named = named
        return f'{{"metrics":{{{inner}}}}}'

    def _artifact(  # noqa: PLR0913  a form that is filled in
        self,
        kind: str,
        project: str,
        name: str,
        files: list[tuple[str, int]],
        cited: list[tuple[str, str]],
        facts: str,
        *,
        at: tuple[str, int] | None = None,
        version: int | None = None,
        begun: tuple[str, str] | None = None,
        said: dict[str, float] | None = None,
    ) -> str:
        """Add the rows of an artifact and return its id.

        A checkpoint is `at` a run and step; a run has `begun` with parameters and a nonce.
        """
        run, step = at or (None, None)
        params, nonce = begun or ("{}", None)
        place = f"{project}/{name}/{kind}/{step if version is None else version}"
        content = self._digest(place, "content")
        cited = sorted(cited)
        inputs = ",".join(f'{{"id":"{one}","role":"{role}"}}' for role, one in cited)
        record = (
            f'{{"attempt":1,"code":{{}},"content":"{content}","facts":{facts},'
            f'"format":"artifact-pipelines/record/v1","inputs":[{inputs}],"kind":"{kind}",'
            f'"lock":null,"name":"{name}","nonce":{_text(nonce)},"params":{params},'
            f'"project":"{project}","run":{_text(run)},'
            f'"step":{"null" if step is None else step}}}'
        ).encode()
        found = hashlib.sha256(record).hexdigest()
        session = self._digest(found, "session")[:32]
        time = self._leaf(
            "publish",
            found,
            project,
            (
                f'{{"annex":null,"attempt":1,"content":"{content}","kind":"{kind}",'
                f'"name":"{name}","object":"{session}",'
                f'"object_sha256":"{self._digest(found, "object")}","project":"{project}",'
                f'"salt":"{self._digest(found, "salt")[:32]}",'
                f'"step":{"null" if step is None else step},'
                f'"version":{"null" if version is None else version}}}'
            ),
        )
        size = sum(length for _, length in files)
        training = sum(length for path, length in files if path.startswith("optimizer."))
        rows = self._rows
        if kind == "training_run":
            self._behind = found
        behind = None if kind == "dataset" else self._behind
        rows["parameter"] += [
            (found, name, float(value), str(value)) for name, value in sorted((said or {}).items())
        ]
        if kind != "checkpoint":
            rows["words"].append((self.seq - 1, found, f"{project}\n{name}\n"))
        rows["artifact"].append(
            (
                *(found, self.seq - 1, kind, project, name, step, 1, version, content, record),
                *(session, None, size, size, training, time, "live", False, "hot"),
                *(behind, None),
            )
        )
        rows["artifact_file"] += [
            (
                *(found, path, length, self._digest(content, path)),
                *("application/octet-stream", "present"),
            )
            for path, length in files
        ]
        rows["edge"] += [(found, parent, role, "observed") for role, parent in cited]
        if run is not None:
            rows["edge"].append((found, run, "run", "observed"))
        parents = {self._numbers[one] for one in (*(one for _, one in cited), run) if one}
        rows["ancestry"] += [(self.seq - 1, parent) for parent in sorted(parents)]
        self._numbers[found] = self.seq - 1
        if facts.startswith('{"metrics"'):
            rows["metric"] += [
                (found, metric, project, kind, value, self.seq - 1) for metric, value in self._named
            ]
        self._bytes(found, session, files, kind)
        self.count += 1
        return found

    def _bytes(self, found: str, pack: str, files: list[tuple[str, int]], kind: str) -> None:
        """Say where an artifact's chunks are: a model's are its checkpoint's."""
        if kind == "model":
            self._rows["artifact_pack"].append((found, self._pack))
            return
        offset = 8
        for path, length in files:
            key = self._digest(found, path)
            self._rows["chunk"].append((key, pack, offset, length, length, "raw", None, None))
            offset += length
        self._rows["pack"].append((pack, "live", None, 1, offset, None))
        self._rows["artifact_pack"].append((found, pack))
        self._pack = pack

    def _leaf(self, action: str, subject: str, project: str, body: str) -> str:
        """Add a leaf and the nodes that it completes, and return its time."""
        encoded = body.encode()
        at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=40 * self.seq)
        time = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        envelope = (
            f'{{"action":"{action}","actor":"{ACTOR}",'
            f'"body":"{hashlib.sha256(encoded).hexdigest()}",'
            f'"format":"artifact-pipelines/leaf/v1","seq":{self.seq},"subject":"{subject}",'
            f'"time":"{time}"}}'
        ).encode()
        node = merkle.leaf_hash(envelope)
        index, peak, nodes = self.seq, node, b""
        while index % 2:
            peak = merkle.node_hash(self.peaks.pop(), peak)
            index //= 2
            nodes += peak
        self.peaks.append(peak)
        self._rows["leaf"].append(
            (self.seq, time, ACTOR, action, subject, project, envelope, encoded, node, nodes)
        )
        self.seq += 1
        return time

    def _digest(self, *parts: str) -> str:
        return hashlib.sha256(f"{self.seed}/{'/'.join(parts)}".encode()).hexdigest()


def fill(catalog: Catalog, history: History) -> dict[str, int]:
    """Append a history to a catalog and return how many rows each table got.

    Secondary indexes are made when all rows are in, and statistics after them.
    """
    head = catalog.read(ledger.head)
    history.seq = head.size
    width = ledger.HASH_BYTES
    history.peaks = [head.peaks[at : at + width] for at in range(0, len(head.peaks), width)]
    counts = dict.fromkeys(COLUMNS, 0)

    lite = catalog.url.get_backend_name() == "sqlite"

    def load(tx: Transaction) -> None:
        indexes = [index for name in COLUMNS for index in tables.metadata.tables[name].indexes]
        for index in indexes:
            index.drop(tx.conn)
        for rows in history.batches():
            for name, found in rows.items():
                counts[name] += len(found)
                (_insert if lite else _copy)(tx.conn, name, found)
        if not lite:
            tx.conn.exec_driver_sql("set local maintenance_work_mem = '512MB'")
        for index in indexes:
            index.create(tx.conn)
        table = tables.ledger_head
        tx.conn.execute(
            sa.update(table)
            .where(table.c.id == 1)
            .values(size=history.seq, peaks=b"".join(history.peaks), exported=history.seq)
        )

    if lite:
        _pragmas(catalog, "journal_mode = off", "synchronous = off", "cache_size = -2000000")
    gc.disable()  # millions of small tuples, and no cycle among them
    try:
        catalog.write(load)
    finally:
        gc.enable()
    if lite:
        _pragmas(catalog, "journal_mode = wal", "synchronous = full", "cache_size = -2000")
    analyze(catalog)
    return counts


def analyze(catalog: Catalog) -> None:
    """Have the database count its rows again, so that it plans with what is there."""
    with catalog.engine.connect() as conn:
        raw = conn.connection.dbapi_connection
        assert raw is not None
        if conn.dialect.name == "sqlite":
            raw.execute("analyze")
            raw.execute("pragma wal_checkpoint(truncate)")
        else:
            raw.autocommit = True
            raw.cursor().execute("vacuum analyze")


def _pragmas(catalog: Catalog, *wanted: str) -> None:
    """Set what no transaction may be open for, on the one connection of the pool."""
    with catalog.engine.connect() as conn:
        raw: Any = conn.connection.dbapi_connection
        for pragma in wanted:
            raw.execute(f"pragma {pragma}")


def _insert(conn: Connection, name: str, rows: list[tuple[Any, ...]]) -> None:
    columns = ", ".join(f'"{column}"' for column in COLUMNS[name])
    marks = ", ".join("?" for _ in COLUMNS[name])
    raw: Any = conn.connection.dbapi_connection
    if name != "artifact":
        rows.sort(key=lambda row: row[:3])  # neighbours in the tree are written together
    raw.executemany(f'insert into "{name}" ({columns}) values ({marks})', rows)


def _copy(conn: Connection, name: str, rows: list[tuple[Any, ...]]) -> None:
    columns = ", ".join(f'"{column}"' for column in COLUMNS[name])
    text = io.StringIO()
    for row in rows:
        text.write("\t".join(map(_field, row)))
        text.write("\n")
    text.seek(0)
    raw: Any = conn.connection.dbapi_connection
    with raw.cursor() as cursor:
        cursor.copy_expert(f'copy "{name}" ({columns}) from stdin', text)


def _field(value: object) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, bytes):
        return r"\\x" + value.hex()
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value).replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'
