"""Training runs that are still to be begun, and that each is trained by one process at a time."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.catalog.exclusive import exclusively
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ConfigurationError, ConflictError, UnknownArtifactError
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.reading import Artifact

MOST_RUNS = 1_000
"""The runs that one plan may hold."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A training run that was asked for and has not begun.

    Attributes:
        project: The project.
        name: The run's name.
        plan: The name of the plan that it is part of.
        params: The parameters that replace those of the project, one by one.
        inputs: Dataset versions by dataset; the newest of each where it is left out.
        resume_from: The checkpoint of another run to go on from, or nothing.
        seq: The leaf that planned it.
    """

    project: str
    name: str
    plan: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    resume_from: str
    seq: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What a project declares that a run may be asked for.

    Attributes:
        params: Its parameters, as they are where a run does not say otherwise.
        datasets: Its datasets.
        trained_on: Those of them that a run is trained on.
    """

    params: Mapping[str, Any]
    datasets: tuple[str, ...]
    trained_on: tuple[str, ...]

    def check(self, project: str, params: Mapping[str, Any], inputs: Collection[str]) -> None:
        """Refuse parameters and datasets that a project does not declare for its training.

        Raises:
            ConfigurationError: It declares no such parameter, declares it as a number and was
                given none, or keeps the dataset for measuring.
            UnknownArtifactError: It has no such dataset.
        """
        unknown = sorted(set(params) - set(self.params))
        if unknown:
            raise ConfigurationError(
                f"{project} declares no parameter {unknown[0]!r}; it declares "
                f"{', '.join(self.params) or 'none'}. A new one is added to `params` in its YAML, "
                "and Dagster reloads the code location."
            )
        for name, value in params.items():
            if _is_number(self.params[name]) and not _is_number(value):
                raise ConfigurationError(
                    f"the parameter {name!r} of {project} is a number, {self.params[name]} by "
                    f"default, and {value!r:.80} is none."
                )
        foreign = sorted(set(inputs) - set(self.datasets))
        if foreign:
            raise UnknownArtifactError(
                f"{project} has no dataset {foreign[0]!r}; it has {', '.join(self.datasets)}."
            )
        kept = sorted(set(inputs) - set(self.trained_on))
        if kept:
            raise ConfigurationError(
                f"models of {project} are measured on {kept[0]}, so none is trained on it; a run "
                f"takes {', '.join(self.trained_on)}."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Sweeping(Publishing):
    """The registry, as far as runs are planned."""

    def note_outlines(self, outlines: Mapping[str, Outline]) -> None:
        """Remember what projects declare, as Dagster has just loaded them."""
        told = {
            project: digest.canonical(asdict(outline)).decode()
            for project, outline in outlines.items()
        }
        table = tables.outline
        known = self.catalog.read(
            lambda conn: dict(conn.execute(sa.select(table.c.project, table.c.document)).all())
        )
        changed = {name: text for name, text in told.items() if known.get(name) != text}

        def change(tx: Transaction) -> None:
            # Two steps may tell the same at once, and neither must fail.
            dialect = sqlite if tx.conn.dialect.name == "sqlite" else postgresql
            insert = dialect.insert(table)
            told_again = {"document": insert.excluded.document}
            rows = [{"project": name, "document": changed[name]} for name in sorted(changed)]
            upsert = insert.on_conflict_do_update(index_elements=["project"], set_=told_again)
            tx.conn.execute(upsert, rows)

        if changed:
            self.catalog.write(change)

    def outline(self, project: str) -> Outline | None:
        """Return what a project declares, or None where Dagster has not said it."""
        table = tables.outline
        statement = sa.select(table.c.document).where(table.c.project == project)
        text = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        if text is None:
            return None
        said = digest.parse(text.encode())
        if not isinstance(said["params"], dict):
            return None  # Another version wrote it, and Dagster says it again.
        return Outline(said["params"], tuple(said["datasets"]), tuple(said["trained_on"]))

    def chosen_inputs(self, project: str, inputs: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of the dataset versions that a run is to take, by dataset.

        Raises:
            ConfigurationError: One is no version of the dataset that it is to be taken as.
        """
        chosen = {}
        for name, reference in inputs.items():
            found = self.find(reference)
            if (found.kind, found.project, found.name) != (Kind.DATASET, project, name):
                raise ConfigurationError(
                    f"{found.reference} is no version of the dataset {project}/{name}; choose one "
                    f"that `artifact-pipelines dataset list {project}` shows, such as "
                    f"{name}={project}/{name}@latest."
                )
            chosen[name] = found.id
        return chosen

    def plan_runs(
        self,
        project: str,
        plan: str,
        runs: Mapping[str, Mapping[str, Any]],
        *,
        inputs: Mapping[str, str] | None = None,
        resume_from: str | None = None,
    ) -> list[PlannedRun]:
        """Return runs that Dagster's event sensor will begin, planned all or none.

        Args:
            project: The project.
            plan: A name for all of them.
            runs: By name, the parameters that replace those of the project.
            inputs: References of dataset versions by dataset, such as `digits/images@1`.
            resume_from: The checkpoint that all go on from.

        Raises:
            ConfigurationError: The project declares no such parameter, or an input is no version
                of the dataset that it is given for.
            ConflictError: A name is taken by a run, a planned run or a dataset.
            UnknownArtifactError: There is no such project or dataset, or no version of one yet.
        """
        naming.check_run(plan)
        known = self.projects()
        if project not in known:
            raise UnknownArtifactError(
                f"there is no project {project!r}; there is {', '.join(known) or 'none yet'}. "
                "Of a new one, the datasets are materialized first."
            )
        if not 0 < len(runs) <= MOST_RUNS:
            raise ConfigurationError(f"a plan holds 1 to {MOST_RUNS} runs, not {len(runs)}.")
        for name in runs:
            naming.check_run(name)
        outline = self.outline(project)
        if outline is not None:
            for params in runs.values():
                outline.check(project, params, inputs or ())
            for name in outline.trained_on:
                if name not in (inputs or ()) and not self.datasets(project, name):
                    raise UnknownArtifactError(
                        f"the dataset {project}/{name} has no version yet; materialize it first."
                    )
        body = {
            "project": project,
            "plan": plan,
            "runs": {name: dict(params) for name, params in runs.items()},
            # What a reference names today is what is meant.
            "inputs": self.chosen_inputs(project, inputs or {}),
            "resume_from": self.find(resume_from).id if resume_from else None,
        }
        digest.canonical(body)

        def change(tx: Transaction) -> None:
            ledger.lock(tx)
            _check_free(tx, project, list(runs))
            ledger.append(
                tx, action="run_plan", subject=f"{project}/{plan}", body=body, actor=self.actor
            )

        self.catalog.write(change)
        self.export_leaves()
        return [run for run in self.planned([project]) if run.name in runs]

    def planned(self, projects: Collection[str], limit: int | None = None) -> list[PlannedRun]:
        """Return the runs of some projects that have not begun, in the order of their plans."""
        table = tables.planned
        statement = (
            sa.select(table)
            .where(table.c.project.in_(sorted(projects)))
            .order_by(table.c.seq, table.c.name)
            .limit(limit)
        )
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        return [_planned_run(row) for row in rows]

    def withdraw_run(self, project: str, name: str, reason: str) -> None:
        """Take back a planned run.

        Raises:
            UnknownArtifactError: No run of this name is planned.
        """

        def change(tx: Transaction) -> None:
            ledger.lock(tx)
            table = tables.planned
            there = sa.select(table.c.name).where(table.c.project == project, table.c.name == name)
            if tx.conn.execute(there).first() is None:
                raise UnknownArtifactError(
                    f"no run {project}/{name} is planned; one that has begun is not taken back."
                )
            ledger.append(
                tx,
                action="run_withdraw",
                subject=f"{project}/{name}",
                body={"project": project, "name": name, "reason": reason},
                actor=self.actor,
            )

        self.catalog.write(change)
        self.export_leaves()

    @contextmanager
    def sole_trainer(self, run: Artifact) -> Iterator[None]:
        """Keep every other process from training a run.

        Raises:
            ConflictError: Another process is training it.
        """
        with exclusively(self.catalog, f"train {run.id}") as mine:
            if not mine:
                raise ConflictError(
                    f"the run {run.reference} is being trained by another process; wait until it "
                    "ends, or choose another name."
                )
            yield

    def in_training(self, run: Artifact) -> bool:
        """Return whether a process is training a run now."""
        with exclusively(self.catalog, f"train {run.id}") as mine:
            return not mine


def _check_free(tx: Transaction, project: str, names: list[str]) -> None:
    artifact, planned = tables.artifact, tables.planned
    taken = [
        sa.select(artifact.c.name).where(
            artifact.c.project == project, artifact.c.kind.in_(["training_run", "dataset"])
        ),
        sa.select(planned.c.name).where(planned.c.project == project),
    ]
    known = {name for statement in taken for name in tx.conn.execute(statement).scalars()}
    for name in names:
        if name in known:
            raise ConflictError(
                f"the name {project}/{name} is taken by a run, a planned run or a dataset; a run "
                "name trains once, so choose another."
            )


def _planned_run(row: sa.Row[Any]) -> PlannedRun:
    asked = digest.parse(row.asked.encode())
    return PlannedRun(
        project=row.project,
        name=row.name,
        plan=row.plan,
        params=asked["params"],
        inputs=asked["inputs"],
        resume_from=asked["resume_from"] or "",
        seq=row.seq,
    )
