"""Work that is cut into shards: steps that an executor may spread over processes and machines.

Cutting, doing a shard and reporting are one step each. What they hand on is small, is JSON and
is in the store, where every machine finds it. An engine may run a shard twice, when a machine
died or only seemed to, so a shard that is done twice must be done once.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import dagster as dg
from pydantic import TypeAdapter

from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.opened import STEPS
from artifact_pipelines.resources import RegistryResource
from artifact_pipelines.settings import Settings
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.opening import open_backend

VALUES = "step_values"
"""The resource that carries what steps hand on."""
RETRIES = 2
BROKER = "ARTIFACT_PIPELINES_BROKER_URL"
"""The variable that says where the broker of Celery is; results go there too."""
CELERY: dict[str, Any] = {
    # A shard is done when it is done, not when it was taken: of a worker that dies, another
    # takes it over, of a machine that dies after this many seconds, which no shard may take.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {"visibility_timeout": 3600},
    "broker_connection_retry_on_startup": True,
}
"""How Celery hands out steps; `deploy/production/celery.yaml` says the same to its workers."""

S = TypeVar("S")
F = TypeVar("F")
Results = Iterator[dg.MaterializeResult[Any]]


class StepValues(dg.ConfigurableIOManager):
    """What steps hand on, in the store until prune sweeps it."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a value."""
        _values().put(_key(context), json.dumps(obj).encode())

    def load_input(self, context: dg.InputContext) -> Any:  # noqa: ANN401  whatever was written
        """Read a value."""
        if context.upstream_output is None:
            raise dg.Failure("there is no step that this value could come from.")
        return json.loads(_values().get(_key(context.upstream_output)))


@dataclass(frozen=True)
class Fanned(Generic[S, F]):
    """How some work is cut, done and reported on.

    Attributes:
        split: Yields the shards; it is given the configuration and the id of the Dagster run.
        work: Does a shard and says what it found.
        gather: Makes the one report of what all shards found.
        shard: The type of a shard.
        found: The type of what a shard finds.
    """

    split: Callable[[Registry, Any, str], Iterable[S]]
    work: Callable[[Registry, S], F]
    gather: Callable[[Registry, list[F]], dg.MaterializeResult[Any]]
    shard: Any
    found: Any


class Described(TypedDict, total=False):
    """What an asset is given beside its work."""

    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]
    code_version: str


def fanned_out(
    key: dg.AssetKey,
    fanned: Fanned[S, F],
    *,
    description: str,
    opened: Callable[[RegistryResource], AbstractContextManager[Registry]],
    checks: Sequence[dg.AssetCheckSpec] = (),
    config: type[dg.Config] = dg.Config,
    after: dg.AssetKey | None = None,
    **described: Unpack[Described],
) -> dg.AssetsDefinition:
    """Return the asset whose work is done in shards.

    Args:
        key: Its key.
        fanned: The work.
        description: What it is.
        opened: Opens the registry for a step.
        checks: What the report answers.
        config: What a person may ask for.
        after: An asset that comes before it.
        described: What else the asset is given.
    """
    name = key.to_python_identifier()
    shards, findings = _adapter(fanned.shard), _adapter(fanned.found)

    # Steps as Dagster calls them: its decorators would read the signatures of all of them anew.
    def split(context: dg.OpExecutionContext, _: Any) -> Iterator[dg.DynamicOutput[Any]]:  # noqa: ANN401
        with opened(context.resources.registry) as opening:
            asked = config(**context.op_config)
            cut = list(fanned.split(opening, asked, context.run.run_id))
        for number, shard in enumerate(cut):
            value = shards.dump_python(shard, mode="json")
            yield dg.DynamicOutput(value, mapping_key=f"{number:04d}")

    def work(context: dg.OpExecutionContext, given: Mapping[str, Any]) -> Iterator[dg.Output[Any]]:
        with opened(context.resources.registry) as opening:
            found = fanned.work(opening, shards.validate_python(given["shard"]))
        yield dg.Output(findings.dump_python(found, mode="json"))

    def gather(context: dg.OpExecutionContext, given: Mapping[str, Any]) -> Results:
        with opened(context.resources.registry) as opening:
            yield fanned.gather(opening, [findings.validate_python(one) for one in given["found"]])

    splitting = dg.OpDefinition(
        split,
        name=f"{name}_split",
        ins={} if after is None else {"after": dg.In(dg.Nothing)},
        outs={"result": dg.DynamicOut(Any, io_manager_key=VALUES)},
        config_schema=_schema(config),
        required_resource_keys={"registry"},
    )
    working = dg.OpDefinition(
        work,
        name=f"{name}_shard",
        ins={"shard": dg.In(Any)},
        outs={"result": dg.Out(Any, io_manager_key=VALUES)},
        required_resource_keys={"registry"},
        # A worker that was killed has decided nothing.
        retry_policy=dg.RetryPolicy(max_retries=RETRIES),
    )
    reports = ["result", *(check.get_python_identifier() for check in checks)]
    gathering = dg.OpDefinition(
        gather,
        name=f"{name}_gather",
        ins={"found": dg.In(Any)},
        outs={report: dg.Out(dg.Nothing) for report in reports},
        required_resource_keys={"registry"},
    )

    def composed(**before: Any) -> Any:  # noqa: ANN401  Dagster's placeholders
        cut = splitting.alias("split")(**before)
        done = cut.map(working.alias("shard")).collect()
        said = gathering.alias("gather")(done)
        return dict(zip(reports, said, strict=True)) if checks else said

    return dg.graph_asset(
        key=key,
        ins={} if after is None else {"after": dg.AssetIn(key=after, dagster_type=dg.Nothing)},
        config=_passed_on(config),
        check_specs=checks,
        description=description,
        **described,
    )(composed)


@cache
def _passed_on(config: type[dg.Config]) -> dg.ConfigMapping:
    """Return what gives the asset's configuration to the step that cuts."""
    return dg.ConfigMapping(lambda asked: {"split": {"config": asked}}, _schema(config))


@cache
def _schema(config: type[dg.Config]) -> Any:  # noqa: ANN401 (Dagster does not export its type)
    return config.to_config_schema()


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:  # noqa: ANN401 (any type)
    return TypeAdapter(shape)


def _values() -> Backend:
    return open_backend(Settings.from_environment().store_url)


def _key(context: dg.OutputContext) -> str:
    return "/".join((STEPS, *(re.sub(r"[^\w.-]", "-", part) for part in context.get_identifier())))


def executor() -> dg.ExecutorDefinition:
    """Return what carries the steps of a code location, as the environment asks.

    Raises:
        ConfigurationError: The extra that carries it is not installed, or lacks its broker.
    """
    asked = Settings.from_environment().executor
    if asked == "multiprocess":
        return dg.multiprocess_executor
    if asked == "celery":
        return _celery()
    if asked == "kubernetes":
        return _kubernetes()
    # Most steps take milliseconds; a process of its own would cost more than a second.
    return dg.in_process_executor


def _celery() -> dg.ExecutorDefinition:
    try:
        from dagster_celery import celery_executor  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise _without("celery") from error
    if not os.environ.get(BROKER):
        raise ConfigurationError(
            f"the executor is celery, but {BROKER} does not say where its broker is; "
            "set it to redis://host:6379/0 or the like."
        )
    place = {"env": BROKER}
    configured: dg.ExecutorDefinition = celery_executor.configured(
        {"broker": place, "backend": place, "config_source": CELERY}
    )
    return configured


def _kubernetes() -> dg.ExecutorDefinition:
    try:
        from dagster_k8s import k8s_job_executor  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise _without("kubernetes") from error
    found: dg.ExecutorDefinition = k8s_job_executor
    return found


def _without(extra: str) -> ConfigurationError:
    return ConfigurationError(
        f"the executor is {extra}, but its packages are missing; "
        f"run: pip install 'artifact-pipelines[{extra}]'"
    )
