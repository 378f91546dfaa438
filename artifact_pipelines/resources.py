"""The registry, and the process that trains, as Dagster resources."""

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.observing import tell
from artifact_pipelines.settings import Settings

_GRACE = 30.0  # seconds for a trainer that was asked to stop


class RegistryResource(dg.ConfigurableResource[None]):
    """The registry that the environment names, opened for the length of a step."""

    @contextmanager
    def opened(self) -> Iterator[Registry]:
        """Open the registry; what it refuses fails the step with its one sentence."""
        try:
            settings = Settings.from_environment()
            tell(settings.logs, settings.metrics, spans=settings.spans)
            with open_registry(
                settings.home,
                store_url=settings.store_url,
                catalog_url=settings.catalog_url,
                keys=settings.keys,
                actor=settings.actor,
            ) as registry:
                yield registry
        except ArtifactError as error:
            # Nothing changes by trying again: the rules have said no.
            raise dg.Failure(str(error), allow_retries=False) from error


class TrainerResource(dg.ConfigurableResource[None]):
    """A process of its own for each training, followed through Dagster Pipes."""

    def run(self, context: dg.AssetExecutionContext, job: Mapping[str, Any]) -> str | None:
        """Train, and return why it failed, or None when it finished.

        Args:
            context: The step that trains.
            job: What the process is asked: project, run, train, params, inputs, resume_from,
                python_path.
        """
        with contextlib.ExitStack() as stack:
            with warnings.catch_warnings():
                # Dagster warns here of its own previews and deprecated calls.
                warnings.simplefilter("ignore")
                opened = dg.open_pipes_session(
                    context,
                    context_injector=dg.PipesTempFileContextInjector(),
                    message_reader=dg.PipesTempFileMessageReader(),
                    extras=dict(job),
                )
                session = stack.enter_context(opened)
            command = [sys.executable, "-m", "artifact_pipelines.sdk"]
            code = _follow(command, session.get_bootstrap_env_vars())
        said = [message for message in session.get_custom_messages() if "outcome" in message]
        if code == 0 and said and said[-1]["outcome"] == "finished":
            return None
        if said and said[-1].get("error"):
            return str(said[-1]["error"])
        return f"the process that trained ended {_described(code)} and left no message."


def _follow(command: list[str], variables: Mapping[str, str]) -> int:
    """Return the exit code of a process, which ends with the step."""
    # The environment goes along: it says where the registry is.
    process = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603 (ours)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _described(code: int) -> str:
    if code < 0:
        return f"by the signal {signal.Signals(-code).name}"
    return f"with exit code {code}"
