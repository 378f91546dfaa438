"""The registry, and the process that trains, as Dagster resources."""

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from artifact_pipelines.errors import ArtifactError, ConfigurationError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.observing import tell
from artifact_pipelines.settings import Settings

_GRACE = 30.0  # seconds for a trainer that was asked to stop
_SENTENCE = 300  # characters of what Kubernetes says of a pod


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
        said = _outcome(session.get_custom_messages())
        if code == 0 and said.get("outcome") == "finished":
            return None
        return said.get("error") or (
            f"the process that trained ended {_described(code)} and left no message."
        )


class PodTrainer(TrainerResource):
    """A pod of its own for each training, on Kubernetes; needs the extra `kubernetes`.

    Attributes:
        template: The file of a `PodTemplate`, whose first container trains.
        kubeconfig: The file that says where the cluster is; the cluster that this runs in when
            left out.
        seconds: How long to wait between two looks at the pod.
    """

    template: str
    kubeconfig: str | None = None
    seconds: float = 5.0

    def run(self, context: dg.AssetExecutionContext, job: Mapping[str, Any]) -> str | None:
        """Train, and return why it failed, or None when it finished."""
        # They take longer to import than all the rest, and are absent without the extra.
        import dagster_k8s  # noqa: PLC0415
        import kubernetes  # noqa: PLC0415

        pod = self.pod()

        class Reader(dagster_k8s.PipesK8sPodLogsMessageReader):
            """A reader that keeps what was said by a pod that failed in the end."""

            said: Callable[[], Sequence[Any]] = tuple

            def read_messages(self, handler: Any) -> Any:  # noqa: ANN401 (Dagster's)
                self.said = handler.get_custom_messages
                return super().read_messages(handler)

        reader = Reader()
        client = dagster_k8s.PipesK8sClient(
            message_reader=reader, kubeconfig_file=self.kubeconfig, poll_interval=self.seconds
        )
        why = "left no message"
        try:
            with warnings.catch_warnings():
                # As above.
                warnings.simplefilter("ignore")
                client.run(
                    context=context,
                    extras=dict(job),
                    namespace=pod["metadata"].get("namespace"),
                    base_pod_meta=pod["metadata"],
                    base_pod_spec=pod["spec"],
                )
        except kubernetes.client.ApiException as error:
            why = f"could not be run: Kubernetes answered {error.status} {error.reason}"
        except (dagster_k8s.client.DagsterK8sError, dg.DagsterError) as error:
            why = f"failed: {' '.join(str(error).split())[:_SENTENCE]}"
        said = _outcome(reader.said())
        if said.get("outcome") == "finished":
            return None
        return said.get("error") or f"the pod that trained {why}."

    def pod(self) -> dict[str, Any]:
        """Return metadata and spec of the pod that trains.

        Raises:
            ConfigurationError: The template cannot be used.
        """
        try:
            found = yaml.safe_load(Path(self.template).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(
                f"the pod template {self.template!r} cannot be read: {error}."
            ) from error
        inner = found.get("template") if isinstance(found, dict) else None
        if not isinstance(inner, dict) or found.get("kind") != "PodTemplate":
            raise ConfigurationError(f"{self.template!r} is no PodTemplate of Kubernetes.")
        spec = dict(inner.get("spec") or {})
        containers = [dict(one) for one in spec.get("containers") or []]
        if not containers or not containers[0].get("image"):
            raise ConfigurationError(
                f"the pod template {self.template!r} names no image for its first container."
            )
        containers[0].setdefault("command", ["python", "-m", "artifact_pipelines.sdk"])
        return {
            "metadata": dict(inner.get("metadata") or {}),
            "spec": {**spec, "containers": containers, "restartPolicy": "Never"},
        }


def trainer(settings: Settings) -> TrainerResource:
    """Return what trains: a process here, or a pod where the settings name a template."""
    if settings.training_pod is None:
        return TrainerResource()
    return PodTrainer(template=str(settings.training_pod))


def _outcome(messages: Sequence[Any]) -> dict[str, Any]:
    """Return the last message of a worker about how its training ended, if there is one."""
    found = [one for one in messages if isinstance(one, dict) and "outcome" in one]
    return found[-1] if found else {}


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
