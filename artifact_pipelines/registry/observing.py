"""What a process tells of its work while it works: log lines, metrics and spans.

Nothing is told until a process asks for it, and then what is told costs a trainer no import
of what it does not use. What is true is in the ledger; this is for those on duty.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifact_pipelines.errors import ConfigurationError

LOGGER = logging.getLogger("artifact_pipelines")
_FORMATS = ("json", "text")
_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


@dataclass(slots=True)
class _Told:
    """What this process was asked to tell."""

    metrics: Any = None
    tracer: Any = None
    logging: bool = False
    wanted: set[tuple[str | None, Path | None, bool]] = field(default_factory=set)


_TOLD = _Told()


def tell(logs: str | None = None, metrics: Path | None = None, *, spans: bool = False) -> None:
    """Tell of this process's work from now on; asked again for the same, it is once.

    Args:
        logs: `json` or `text` lines on standard error.
        metrics: A folder that all processes of this machine share, for Prometheus.
        spans: Whether OpenTelemetry gets spans; where they go is up to its own variables.

    Raises:
        ConfigurationError: The format is unknown, or a package is missing.
    """
    if (logs, metrics, spans) in _TOLD.wanted:
        return
    if logs is not None:
        _TOLD.logging = True
        _log_to_standard_error(logs)
    try:
        if metrics is not None:
            _TOLD.metrics = _histograms(metrics)
        if spans:
            from opentelemetry import trace  # noqa: PLC0415  a second of imports, if wanted

            _TOLD.tracer = trace.get_tracer("artifact_pipelines")
    except ImportError as error:
        raise ConfigurationError(
            f"metrics and spans need the package {error.name}; "
            "run: pip install 'artifact-pipelines[metrics]'"
        ) from None
    _TOLD.wanted.add((logs, metrics, spans))


@contextlib.contextmanager
def observed(work: str, **about: str | int | None) -> Iterator[None]:
    """Tell how long a piece of work took, and how it ended.

    Args:
        work: Its name: `publish`, `gate`, `promotion`, `prune`.
        about: What it was about; in logs and spans, not in metrics, which must stay few.
    """
    told = _TOLD
    if not (told.logging or told.metrics or told.tracer):
        yield
        return
    began, outcome, error = time.perf_counter(), "done", None
    with contextlib.ExitStack() as stack:
        if told.tracer is not None:
            attributes = {f"artifact.{name}": value for name, value in about.items() if value}
            stack.enter_context(told.tracer.start_as_current_span(work, attributes=attributes))
        try:
            yield
        except GeneratorExit:
            outcome = "abandoned"
            raise
        except BaseException as raised:
            outcome, error = type(raised).__name__, str(raised)
            raise
        finally:
            seconds = time.perf_counter() - began
            if told.metrics is not None:
                told.metrics.labels(work, outcome).observe(seconds)
            if told.logging:
                fields = {"work": work, "outcome": outcome, "seconds": round(seconds, 6), **about}
                if error is not None:
                    fields["error"] = error
                level = logging.INFO if outcome == "done" else logging.WARNING
                LOGGER.log(level, "%s %s", work, outcome, extra={"told": fields})


class JsonLines(logging.Formatter):
    """One JSON object to a line, with what the work was about as fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        at = datetime.fromtimestamp(record.created, UTC)
        found = {
            "time": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "told", {}),
        }
        return json.dumps(found, default=str)


def _log_to_standard_error(form: str) -> None:
    if form not in _FORMATS:
        raise ConfigurationError(
            f"the log format {form!r} is not one of {' and '.join(_FORMATS)}; "
            "set ARTIFACT_PIPELINES_LOG to one of them, or unset it."
        )
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def _histograms(folder: Path) -> Any:  # noqa: ANN401  a class of a package that may be absent
    folder.mkdir(parents=True, exist_ok=True)
    # It is read when the package is imported, and never again.
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(folder))
    from prometheus_client import Histogram  # noqa: PLC0415  only where metrics are wanted

    return Histogram(
        "artifact_pipelines_work_seconds",
        "How long pieces of work took, by what they were and how they ended.",
        ["work", "outcome"],
        buckets=_BUCKETS,
    )
