"""The process that Dagster starts through Pipes to train."""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from artifact_pipelines.errors import ArtifactError, ConfigurationError, TrainerError
from artifact_pipelines.sdk.opening import settings_of
from artifact_pipelines.sdk.provenance import code_of
from artifact_pipelines.sdk.running import Request, Run, named, running, step_of

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

    from artifact_pipelines.registry.reading import Artifact

_SHOWN_METRICS = 8
_BETWEEN = 10.0  # seconds between two lines of metrics in Dagster's log
_LOOK = 1.0  # seconds between two looks at the parent
_STOPPED = 128 + signal.SIGTERM


def main() -> int:
    """Train as Dagster asks through Pipes, and return the exit code."""
    import dagster_pipes

    loader = dagster_pipes.PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call] # theirs
    if not loader.is_dagster_pipes_process():
        sys.stderr.write("artifact_pipelines.sdk is started by Dagster, not by hand.\n")
        return 2
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    with dagster_pipes.open_dagster_pipes() as pipes:
        return _work(pipes)


class _StoppedError(BaseException):
    """The request to end, which a trainer's `except Exception` does not catch."""


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise _StoppedError(f"the trainer was stopped by {signal.Signals(number).name}.")


def _follow(parent: int) -> None:
    """Stop this process when the step that started it is gone: another may take its run up."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


def _work(pipes: "PipesContext") -> int:
    saved: set[int] = set()

    def report(checkpoint: "Artifact") -> None:
        saved.add(step_of(checkpoint))
        sys.stdout.write(f"{_line(checkpoint)}\n")
        sys.stdout.flush()

    sentence, code = None, 0
    try:
        saved.update(
            _train(pipes.extras, {"dagster_run": pipes.run_id}, report, _Shown(pipes).metrics)
        )
    except ArtifactError as error:
        sentence, code = str(error), 1
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
    except (KeyboardInterrupt, _StoppedError) as error:
        sentence, code = str(error) or "the trainer was interrupted.", _STOPPED
    except Exception as error:  # noqa: BLE001 (whoever asked is told, whatever it is)
        traceback.print_exception(error)
        sentence, code = named(error), 1
    if sentence is not None:
        sys.stderr.write(f"{sentence}\n")
        pipes.log.error(sentence)
    pipes.report_custom_message(
        {
            "outcome": "finished" if code == 0 else "failed",
            "error": sentence,
            "checkpoints": len(saved),
        }
    )
    return code


class _Shown:
    """The metrics that Dagster's log shows while training goes on: the newest, now and then."""

    def __init__(self, pipes: "PipesContext") -> None:
        self._pipes = pipes
        self._next = 0.0

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show metrics, unless others were shown just now."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _BETWEEN
            self._pipes.log.info("step %d: %s", step, _shown(metrics))


def _train(
    job: Mapping[str, Any],
    annex: Mapping[str, Any],
    report: "Callable[[Artifact], None]",
    metrics: Callable[[int, Mapping[str, float]], None],
) -> list[int]:
    """Train, and return the steps of all checkpoints of the run."""
    missing = [field for field in ("project", "run", "train") if not job.get(field)]
    if missing:
        raise ConfigurationError(f"the request to train lacks {', '.join(missing)}.")
    sys.path[:0] = job.get("python_path") or []
    train = _function(job["train"])
    file = getattr(sys.modules[train.__module__], "__file__", None)
    request = Request(
        job["project"],
        job["run"],
        job.get("params") or {},
        job.get("inputs") or {},
        job.get("resume_from"),
    )
    code = code_of(None if file is None else Path(file), job["train"])
    with running(
        request,
        settings_of(None),
        reuse=True,
        code=replace(code, facts={**code.facts, **(job.get("code") or {})}),
        annex={**annex, **(job.get("dagster") or {})},
        on_checkpoint=report,
        on_metrics=metrics,
    ) as run:
        if run.complete:
            sys.stdout.write(f"{run.reference} is complete: nothing is trained again\n")
        else:
            if run.resume is not None:
                sys.stdout.write(f"{run.reference} goes on from {run.resume.reference}\n")
            sys.stdout.flush()
            try:
                train(run)
            except ArtifactError:
                raise
            except (Exception, SystemExit) as error:
                raise TrainerError(f"the trainer {job['train']} raised {named(error)}") from error
        return [step_of(checkpoint) for checkpoint in run.checkpoints]


def _function(name: str) -> Callable[[Run], object]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ConfigurationError(f"the module {module!r} has no function {attribute!r}.") from error
    except Exception as error:
        raise ConfigurationError(
            f"the trainer {name!r} cannot be imported: {named(error)}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"the trainer {name!r} is not a function.")
    checked: Callable[[Run], object] = found
    return checked


def _line(checkpoint: "Artifact") -> str:
    return f"{checkpoint.reference}  {_shown(checkpoint.metrics)}".rstrip()


def _shown(metrics: Mapping[str, float]) -> str:
    found = sorted(metrics.items())
    shown = [f"{name} {value:.6g}" for name, value in found[:_SHOWN_METRICS]]
    if len(found) > _SHOWN_METRICS:
        shown.append(f"and {len(found) - _SHOWN_METRICS} more")
    return ", ".join(shown)
