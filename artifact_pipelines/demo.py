"""The guided tour: handwritten digits from raw rows to a promoted, rolled-back, audited model.

Every step is what a user does: the same Dagster jobs, the same registry, real data that
drifts. Nothing in the summary is written in; all of it is read back.
"""

import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from artifact_pipelines.domain.policy import Select
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    ConflictError,
    LedgerError,
)
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import rebuild
from artifact_pipelines.registry.evaluating import measured
from artifact_pipelines.registry.promoting import Resolved
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.settings import Settings, prepare_dagster_home
from artifact_pipelines.store.encryption import Keyring
from artifact_pipelines.store.files import check_file_system
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines.store.pack import object_key

PROJECT = "digits"
APPROVER = "reviewer"
MARK = "demo"
"""The file that says a home was made by the demo, and may be made afresh."""
MADE = (MARK, "store", "keys", "dagster", "catalog.db", "catalog.db-wal", "catalog.db-shm")
"""What the demo makes in a home; whatever else is there is somebody's."""

FIRST = {"images": {"start": 0, "stop": 900}, "holdout": {"start": 900, "stop": 1500}}
SECOND = {"images": {"start": 0, "stop": 1500}, "holdout": {"start": 1500, "stop": 1797}}
NARROW = {"hidden": 10, "seed": 5}
RESUMED_FROM = 180
RESUMED = {"epochs": 36}

Say = Callable[[str], None]


def run_demo(settings: Settings, say: Say) -> dict[str, Any]:
    """Run the tour in a home and return its summary.

    Args:
        settings: Where everything goes.
        say: Called with each line of progress.

    Raises:
        ConfigurationError: The home is in use, or the example is not there.
    """
    checkout = Path(__file__).resolve().parent.parent
    example = checkout / "examples" / "digits"
    if not example.is_dir():
        raise ConfigurationError(
            "the demo needs a checkout of the repository: its example project is not installed."
        )
    if find_spec("sklearn") is None:
        raise ConfigurationError(
            "the demo takes its images from scikit-learn; run: "
            "pip install 'artifact-pipelines[demo]'"
        )
    _prepare(settings)
    began = time.monotonic()
    with (
        _environment(settings, checkout, example),
        open_registry(
            settings.home,
            store_url=settings.store_url,
            catalog_url=settings.catalog_url,
            keys=settings.keys,
            actor=settings.actor,
        ) as registry,
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
    ):
        if PROJECT in registry.projects():
            raise ConflictError(
                f"{registry.catalog.url.render_as_string()} holds a project {PROJECT!r} already; "
                "run the demo on a catalog and store of its own."
            )
        tour = _Tour(
            registry,
            settings,
            instance,
            lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}"),
        )
        summary = tour.take()
    return {**summary, "seconds": round(time.monotonic() - began, 1)}


def clear_demo(settings: Settings) -> None:
    """Remove what an earlier tour made in a home, and nothing else.

    Raises:
        ConflictError: The home is not the tour's alone.
    """
    home = settings.home
    if not any((home / name).exists() for name in MADE):
        return
    if not (home / MARK).is_file():
        raise ConflictError(
            f"{home} was not made by the demo, so it is not removed; set ARTIFACT_PIPELINES_HOME "
            "to another folder."
        )
    others: list[str] = []
    if (home / "catalog.db").exists():
        # A tour that was cut short may have left a catalog that does not open.
        with suppress(ArtifactError), open_registry(home, actor=settings.actor) as registry:
            others = [project for project in registry.projects() if project != PROJECT]
    if others:
        raise ConflictError(
            f"{home} also holds {', '.join(others)}, so it is not removed; set "
            "ARTIFACT_PIPELINES_HOME to another folder."
        )
    for name in MADE:
        place = home / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def show_summary(summary: Mapping[str, Any]) -> None:
    """Print a summary for people."""
    console = Console()
    production, storage, retention = (
        summary[name] for name in ("production", "storage", "retention")
    )
    runs = Table("run", "checkpoints", "resumed from", "best step", "accuracy", box=SIMPLE)
    for found in summary["runs"]:
        best = found["best"]
        resumed = found["resumed_from"] or ""
        if found.get("resumed_exactly"):
            resumed += " (bit for bit)"
        accuracy = f"{best['metrics']['accuracy']:.3f}"
        runs.add_row(found["name"], str(found["checkpoints"]), resumed, str(best["step"]), accuracy)
    facts = Table.grid(padding=(0, 2))
    before, after = (_megabytes(retention[f"bytes_{when}"]) for when in ("before", "after"))
    logical, stored = (_megabytes(storage[f"{kind}_bytes"]) for kind in ("logical", "stored"))
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in production["metrics"].items())
    gates, rollback, audit = summary["gates"], summary["rollback"], summary["audit"]
    for name, text in (
        ("data", ", ".join(f"{d['reference']} ({d['rows']} rows)" for d in summary["datasets"])),
        ("gates", f"{gates['passed']} models passed every gate, {gates['failed']} failed one"),
        ("production", f"{production['reference']}: {metrics}"),
        ("proof", "verified" if production["proof_verified"] else "NOT VERIFIED"),
        ("rollback", f"to {rollback['to']} and back; {rollback['seconds']:.2f} s with its checks"),
        ("cleanup", f"{retention['forgotten']} artifacts forgotten: {before} became {after}"),
        ("storage", f"{logical} registered, {stored} stored"),
        ("ledger", f"{audit['leaves']} leaves, {'verified' if audit['verified'] else 'BROKEN'}"),
        (
            "tampering",
            "one flipped byte was found" if audit["tampering_detected"] else "NOT FOUND",
        ),
        ("time", f"{summary['seconds']:.0f} s"),
    ):
        facts.add_row(f"[bold]{name}[/bold]", text)
    console.print(runs)
    console.print(facts)
    console.print(
        "\nSee it in the Dagster UI:  [bold]make dev[/bold]\n"
        "Ask what is live and why:  "
        f"[bold]artifact-pipelines model show {PROJECT}@production[/bold]\n"
        f"Go back one model:         [bold]artifact-pipelines model rollback {PROJECT}[/bold]"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


class _Tour:
    def __init__(
        self, registry: Registry, settings: Settings, instance: dg.DagsterInstance, say: Say
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.say = say
        self.instance = instance
        self.defs: dg.Definitions = importlib.import_module("digits_project.definitions").defs

    def take(self) -> dict[str, Any]:
        """Take every step of the tour."""
        self._datasets(FIRST)
        self._train("baseline", {})
        self._train("narrow", NARROW)
        self._train("resumed", RESUMED, resume_from=f"{PROJECT}/baseline@{RESUMED_FROM}")
        exact = self._resumed_exactly()
        self._promote()
        self.say("time passes: 600 more images arrive, from other writers")
        self._datasets(SECOND)
        self._train("retrained", {})
        self._promote()
        rollback = self._roll_back_and_forward()
        retention = self._retire()
        audit = self._audit()
        return self._summary(exact, rollback, retention, audit)

    def _datasets(self, params: Mapping[str, Mapping[str, int]]) -> None:
        config = {
            f"{PROJECT}__{name}": {"config": {"params": dict(found)}}
            for name, found in params.items()
        }
        self._run(f"{PROJECT}_datasets", config)
        for name in params:
            newest = self.registry.datasets(PROJECT, name)[-1]
            rows = newest.record.facts["rows"]
            self.say(f"registered {newest.reference}: {rows} rows, within its contract")

    def _train(self, name: str, params: Mapping[str, Any], resume_from: str = "") -> None:
        self.instance.add_dynamic_partitions(f"{PROJECT}_runs", [name])
        config = {
            f"{PROJECT}__train": {"config": {"params": dict(params), "resume_from": resume_from}}
        }
        self._run(f"{PROJECT}_train", config, partition=name)
        view = self.registry.run(PROJECT, name)
        resumed = f", resumed from {resume_from}" if resume_from else ""
        self.say(f"trained {view.artifact.reference}: {len(view.checkpoints)} checkpoints{resumed}")
        for model in self.registry.models(PROJECT, name):
            verdicts = self.registry.verdicts(model)
            failed = [verdict for verdict in verdicts if not verdict.passed]
            why = "; ".join(reason for verdict in failed for reason in verdict.reasons)
            compared = [
                reason
                for verdict in verdicts
                if verdict.gate.endswith("_no_worse_than_production") and verdict.baseline
                for reason in verdict.reasons
            ]
            self.say(
                f"  {model.reference} stops at {len(failed)} of its gates: {why}"
                if failed
                else f"  {model.reference} passes {': '.join(['every gate', *compared])}"
            )

    def _resumed_exactly(self) -> bool:
        """Return whether the resumed run reached the very bytes of the uninterrupted one."""
        step = self.registry.run(PROJECT, "baseline").checkpoints[-1].step
        one, other = (
            {entry.path: entry.sha256 for entry in self.registry.files(f"{PROJECT}/{name}@{step}")}
            for name in ("baseline", "resumed")
        )
        exact = one == other
        self.say(
            f"  at step {step} the resumed run and the uninterrupted one have "
            f"{'the same' if exact else 'different'} weights, optimizer, schedule and random state"
        )
        return exact

    def _promote(self) -> None:
        registry = self.registry
        self._run(f"{PROJECT}_promote_staging", {})
        model = registry.stages(PROJECT)["staging"]
        self.say(f"{model.reference} went to staging by itself: every gate passed")
        registry.request(model.reference, "production", "it passed every gate")
        refused = self._run(f"{PROJECT}_promote_production", {}, refused=True)
        self.say(f"production refused it: {refused}")
        registry.create_key(APPROVER)
        registry.approve(model.reference, "production", APPROVER)
        self._run(f"{PROJECT}_promote_production", {})
        served = registry.resolve(f"{PROJECT}@production")
        self.say(
            f"approved by {APPROVER}: {served.model.reference} is in production, with its proof"
        )

    def _roll_back_and_forward(self) -> dict[str, Any]:
        ahead = self.registry.stages(PROJECT)["production"].reference
        back = self.registry.rollback(PROJECT, "production", reason="rehearsal")
        forward = self.registry.rollback(
            PROJECT, "production", to=ahead, reason="end of the rehearsal"
        )
        self.say(
            f"rolled back to {back.model.reference} in {back.seconds:.2f} s and forward to "
            f"{forward.model.reference} in {forward.seconds:.2f} s"
        )
        return {
            "from": forward.model.reference,
            "to": back.model.reference,
            "seconds": round(back.seconds, 3),
        }

    def _retire(self) -> dict[str, Any]:
        registry = self.registry
        before = registry.storage_report()["totals"]["stored_bytes"]
        self._run(f"{PROJECT}_retention", {})
        plan = registry.plans(PROJECT)[-1]
        forget = [item for item in plan.items if item.action == "forget"]
        kept = sum(item.action == "keep" for item in plan.items)
        self.say(f"the retention plan {plan.id[:12]} keeps {kept} and forgets {len(forget)}")
        registry.approve_plan(plan.id)
        self._run(f"{PROJECT}_cleanup", {})
        pruned = registry.prune(grace=0)
        if pruned.disagreements:
            raise ArtifactError(f"prune deleted nothing: {'; '.join(pruned.disagreements)}")
        after = registry.storage_report()["totals"]["stored_bytes"]
        self.say(f"pruned {pruned.deleted} packs: {_megabytes(before)} became {_megabytes(after)}")
        gone = next(item for item in forget if item.kind == "checkpoint")
        parents = ", ".join(edge.parent.reference for edge in registry.lineage(gone.reference))
        self.say(f"  the forgotten {gone.reference} still says what it was made from: {parents}")
        return {
            "kept": kept,
            "archived": sum(item.action == "archive" for item in plan.items),
            "forgotten": sum(registry.get(item.artifact).state == "forgotten" for item in forget),
            "bytes_before": before,
            "bytes_after": after,
        }

    def _audit(self) -> dict[str, Any]:
        self.registry.sign_head()
        report = self.registry.verify_ledger()
        self.say(f"the ledger of {report.leaves} leaves verifies: {report.ok}")
        named = self._tampering()
        found = named[0] if named else "NOT FOUND"
        self.say(f"one byte of the production model flipped in a copy: {found}")
        return {
            "leaves": report.leaves,
            "root": report.root,
            "verified": report.ok,
            "tampering_detected": bool(named),
        }

    def _tampering(self) -> tuple[str, ...]:
        """Flip one byte behind the production model in a copy, and return what is found."""
        registry = self.registry
        model = registry.resolve(f"{PROJECT}@production").model
        key = registry.publication_of(model.id, model.session).keys()[0]
        place = registry.locate([key])[key]
        with tempfile.TemporaryDirectory(prefix="tampered-") as folder:
            home = Path(folder)
            for name in registry.store.backend.keys(""):
                file = home / "store" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(registry.store.backend.get(name))
            backend = open_backend((home / "store").as_uri())
            keyring = Keyring(backend, registry.keys.scopes)
            rebuild(backend, f"sqlite:///{home / 'catalog.db'}", keyring)
            pack = home / "store" / object_key(place.pack)
            with open_registry(home, keys=self.settings.keys, actor=self.settings.actor) as copy:
                before = copy.verify(f"{PROJECT}@production").damaged
                data = bytearray(pack.read_bytes())
                data[place.offset + place.stored // 2] ^= 1
                pack.write_bytes(bytes(data))
                found = copy.verify(f"{PROJECT}@production").damaged
        return tuple(one for one in found if model.reference in one and one not in before)

    def _proven(self, served: Resolved) -> bool:
        """Return whether the signed log proves what production serves."""
        try:
            leaf, body, pointers = served.proof.verify(self.registry.log_key())
        except LedgerError:
            return False
        said = SignedStatement.from_body(body).payload
        return (
            leaf.seq == served.seq == pointers.get(f"{PROJECT}/production")
            and said["artifact"] == served.model.id
            and not served.pending
        )

    def _summary(
        self,
        exact: bool,
        rollback: Mapping[str, Any],
        retention: Mapping[str, Any],
        audit: Mapping[str, Any],
    ) -> dict[str, Any]:
        registry = self.registry
        served = registry.resolve(f"{PROJECT}@production")
        models = registry.models(PROJECT)
        good = [model for model in models if all(v.passed for v in registry.verdicts(model))]
        totals = registry.storage_report()["totals"]
        return {
            "project": PROJECT,
            "datasets": [
                {
                    "reference": found.reference,
                    "content_digest": found.content,
                    "rows": found.record.facts["rows"],
                }
                for found in registry.datasets(PROJECT)
            ],
            "runs": [self._run_summary(view.artifact, exact) for view in registry.runs(PROJECT)],
            "gates": {"passed": len(good), "failed": len(models) - len(good)},
            "production": {
                "reference": served.model.reference,
                "artifact_id": served.model.id,
                "content_digest": served.model.content,
                "metrics": measured(registry.verdicts(served.model)),
                "proof_verified": self._proven(served),
            },
            "rollback": dict(rollback),
            "retention": dict(retention),
            "storage": {
                "logical_bytes": totals["logical_bytes"],
                "stored_bytes": totals["stored_bytes"],
            },
            "audit": dict(audit),
        }

    def _run_summary(self, run: Artifact, exact: bool) -> dict[str, Any]:
        view = self.registry.run(PROJECT, run.name)
        select = self.registry.policy(PROJECT).select or Select(metric="accuracy")
        sign = 1 if select.mode == "max" else -1
        best = max(view.checkpoints, key=lambda found: sign * found.metrics[select.metric])
        resumed = [item.id for item in run.record.inputs if item.role == "resume"]
        found: dict[str, Any] = {
            "name": run.name,
            "checkpoints": len(view.checkpoints),
            "resumed_from": self.registry.get(resumed[0]).reference if resumed else None,
            "best": {"step": best.step, "metrics": best.metrics},
        }
        if resumed:
            found["resumed_exactly"] = exact
        return found

    def _run(
        self,
        job: str,
        ops: Mapping[str, Any],
        partition: str | None = None,
        *,
        refused: bool = False,
    ) -> str:
        """Run a Dagster job; one that should be refused returns why it was."""
        result = self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=partition,
            raise_on_error=False,
            run_config={
                "ops": dict(ops),
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        failures = [
            str(event.step_failure_data.user_failure_data.description)
            for event in result.all_events
            if event.is_step_failure and event.step_failure_data.user_failure_data
        ]
        if refused:
            if result.success:
                raise ArtifactError(f"the job {job} was expected to be refused, and was not.")
            return failures[0] if failures else "for no stated reason"
        if not result.success:
            why = failures[0] if failures else "look at the run in the Dagster UI"
            raise ArtifactError(f"the Dagster job {job} failed: {why}")
        return ""


def _prepare(settings: Settings) -> None:
    mark = settings.home / MARK
    if mark.exists():
        raise ConflictError(_taken(settings.home))
    if (settings.home / "catalog.db").exists():
        raise ConfigurationError(
            f"{settings.home} holds a registry of yours; run the demo in a home of its own, with "
            "ARTIFACT_PIPELINES_HOME set to a new folder."
        )
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_file_system(settings.home)
        mark.touch(exist_ok=False)
    except FileExistsError:
        # Another tour began in this moment, or the home is a file.
        if settings.home.is_dir():
            raise ConflictError(_taken(settings.home)) from None
        raise ConfigurationError(f"the home {settings.home} is not a folder.") from None
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ConfigurationError(
            f"the home {settings.home} cannot be written: {error.strerror}; set "
            "ARTIFACT_PIPELINES_HOME to another folder."
        ) from error


def _taken(home: Path) -> str:
    return (
        f"{home} holds a demo already; look at it with: artifact-pipelines model list {PROJECT}, "
        "or start over with: artifact-pipelines demo --fresh"
    )


@contextmanager
def _environment(settings: Settings, checkout: Path, example: Path) -> Iterator[None]:
    """Let Dagster and the trainers find this home, and keep their output off standard output."""
    prepare_dagster_home(settings, checkout)
    values = {
        "ARTIFACT_PIPELINES_HOME": str(settings.home),
        "ARTIFACT_PIPELINES_STORE_URL": settings.store_url,
        "ARTIFACT_PIPELINES_CATALOG_URL": settings.catalog_url,
        "ARTIFACT_PIPELINES_KEYS": str(settings.keys),
        "ARTIFACT_PIPELINES_ACTOR": settings.actor,
        "DAGSTER_HOME": str(settings.dagster_home),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    sys.path.insert(0, str(example))
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        sys.path.remove(str(example))
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
