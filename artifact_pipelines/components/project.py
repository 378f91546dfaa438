"""What the assets of one project share: keys, partitions, tags and how a run is named."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import dagster as dg

from artifact_pipelines.components.declaration import Declaration
from artifact_pipelines.domain import naming
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.sweeping import Outline
from artifact_pipelines.resources import RegistryResource

PROJECT_TAG = "artifact_pipelines/project"
KIND_TAG = "artifact_pipelines/kind"

TRAINING = ("training_run", "checkpoints", "candidate")
"""The assets of one training, which end in a judged model."""

ALL_ASSETS_JOB = "__ASSET_JOB"
"""The job that Dagster makes over all assets of a code location.

Schedules and sensors launch their assets through it: resolving a job costs time that grows
with the assets of its location, so two hundred projects cannot have their own.
"""


def identifier(name: str) -> str:
    """Return a name as Dagster's jobs, ops and groups may carry it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def job_name(project: str, work: str) -> str:
    """Return the name of a project's job."""
    return f"{identifier(project)}_{work}"


def op_name(project: str, asset: str) -> str:
    """Return the name of an asset's op, which is its place in a run's configuration."""
    return f"{identifier(project)}__{identifier(asset)}"


def run_tags(project: str, kind: str) -> dict[str, str]:
    """Return the tags of a Dagster run, by which its queue is limited."""
    return {PROJECT_TAG: project, KIND_TAG: kind}


def runs_of(project: str) -> dg.DynamicPartitionsDefinition:
    """Return the partitions of a project: its training runs."""
    return dg.DynamicPartitionsDefinition(name=f"{project}_runs")


def dagster_annex(
    context: dg.AssetExecutionContext, upstream: Sequence[dg.AssetKey] = ()
) -> dict[str, Any]:
    """Return which step of which Dagster run this is, and the events that it builds on."""
    events = {}
    for key in upstream:
        found = context.instance.fetch_materializations(key, limit=1).records
        if found:
            events[key.to_user_string()] = {
                "storage_id": found[0].storage_id,
                "dagster_run": found[0].run_id,
            }
    return {
        "dagster_run": context.run.run_id,
        "dagster_job": context.run.job_name,
        "dagster_step": context.op_execution_context.op_def.name,
        "dagster_events": events,
    }


class Common(TypedDict):
    """What every asset of a project is given."""

    group_name: str
    owners: list[str]
    tags: dict[str, str]


class Project:
    """One project's place in the graph.

    Attributes:
        declared: What its YAML says.
        python_path: The folder that its modules are imported from.
        runs: Its partitions, one per training run.
    """

    def __init__(self, declared: Declaration, python_path: Path) -> None:
        """Take a declaration's place in the graph."""
        self.declared = declared
        self.python_path = python_path
        self.runs = runs_of(declared.name)

    @property
    def name(self) -> str:
        """The project."""
        return self.declared.name

    @cached_property
    def policy_digest(self) -> str:
        """The digest of its policy."""
        return self.declared.policy.digest

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of an asset."""
        return dg.AssetKey([self.name, asset])

    def common(self) -> Common:
        """Return what every asset of the project is given."""
        return Common(
            group_name=identifier(self.name),
            owners=list(self.declared.owners),
            tags={PROJECT_TAG: self.name},
        )

    @cached_property
    def outline(self) -> Outline:
        """What its runs may be asked for."""
        return Outline(
            params=dict(self.declared.params),
            datasets=tuple(item.name for item in self.declared.datasets),
            trained_on=tuple(item.name for item in self.declared.training_sets),
        )

    @contextmanager
    def opened(self, registry: RegistryResource) -> Iterator[Registry]:
        """Open the registry with the project's policy in force and its outline known."""
        self.make_importable()
        with registry.opened() as opened:
            opened.set_policy(self.name, self.declared.policy)
            opened.note_outlines({self.name: self.outline})
            yield opened

    def make_importable(self) -> None:
        """Let this process, and those that it starts, import the project's modules."""
        # Dagster takes the folder out of the path again when it has loaded the definitions.
        if str(self.python_path) not in sys.path:
            sys.path.insert(0, str(self.python_path))

    def run_name(self, context: dg.AssetExecutionContext) -> str:
        """Return the training run that a step is about: its partition.

        Raises:
            Failure: There is not exactly one, or its name breaks the naming rules.
        """
        keys = context.partition_keys if context.has_partition_key_range else []
        if not context.has_partition_key and len(keys) != 1:
            said = f"{len(keys)} at once" if keys else "none"
            raise dg.Failure(
                f"choose one training run of {self.name} to materialize: the partition is its "
                f"name, and there is {said}; add a partition with a new name to train again.",
                allow_retries=False,
            )
        try:
            return naming.check_run(context.partition_key)
        except ArtifactError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
