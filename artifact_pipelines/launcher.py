"""Runs as processes of this machine, whose death Dagster is told of."""

from typing import Any

import dagster as dg
import psutil  # type: ignore[import-untyped]

# What a launcher answers in is nowhere public.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus  # noqa: TID251

_ZOMBIE = psutil.STATUS_ZOMBIE
_SLACK = 5.0  # seconds between the clocks of the system and of the event log


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher for one machine, and whether the process of a run is still there.

    Dagster's own cannot tell: a run that was killed with its code server, as by a restart of
    the machine, would go on for ever and keep its place in the queue.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether a run's process can be asked for: yes."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a run is there."""
        found = self._process(run.run_id)
        if found is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it has not said which process it is")
        pid, began = found
        if _is_there(pid, began):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, f"the process {pid} that carried the run has died"
        )

    def _process(self, run_id: str) -> tuple[int, float] | None:
        """Return the number of a run's process and when it said so, newest first."""
        records = self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for record in reversed(list(records)):
            event = record.dagster_event
            said: Any = None if event is None else event.engine_event_data.metadata.get("pid")
            if said is not None:
                return int(said.value), record.timestamp
        return None


def _is_there(pid: int, began: float) -> bool:
    """Return whether a process is alive and no later one of the same number."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= began + _SLACK and process.status() != _ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
