"""Those on duty are told what happens, and nobody else pays for it."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.measuring import exposition, figures
from artifact_pipelines.registry.observing import tell
from artifact_pipelines_tests import building

ROOT = Path(__file__).parent.parent.parent

WORK = """\
import sys
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.observing import tell
from artifact_pipelines_tests import building

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
tell("json", Path(sys.argv[2]), spans=True)
with open_registry(Path(sys.argv[1]), actor="tester") as registry:
    model = building.promoted(registry, "run-1")
    other = registry.publish_model(building.run(registry, "run-2", seed=2)[0])
    try:
        registry.promote(other.reference, "production")
    except ArtifactError:
        pass
    registry.prune(grace=0)
print(" ".join(sorted({span.name for span in kept.get_finished_spans()})))
"""


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ARTIFACT_PIPELINES_HOME": str(tmp_path / "home"),
        "ARTIFACT_PIPELINES_METRICS": str(tmp_path / "metrics"),
    }


def test_logs_metrics_and_spans_say_what_was_done(tmp_path: Path) -> None:
    places = [str(tmp_path / "home"), str(tmp_path / "metrics")]
    ran = subprocess.run(
        [sys.executable, "-c", WORK, *places],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    shown = subprocess.run(
        [sys.executable, "-m", "artifact_pipelines.cli", "metrics", "show"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert ran.stdout.split() == ["promotion", "prune", "publish"]
    assert {line["work"] for line in lines} == {"publish", "promotion", "prune"}
    refused = [line for line in lines if line["outcome"] != "done"]
    assert [line["outcome"] for line in refused] == ["PromotionRefusedError"]
    assert "has no verdict" in refused[0]["error"]
    assert refused[0]["model"] == "digits/v2"
    assert 'artifact_pipelines_work_seconds_count{outcome="done",work="promotion"} 1.0' in shown
    assert 'outcome="PromotionRefusedError",work="promotion"' in shown
    assert "\nartifact_pipelines_leaves " in shown


def test_figures_follow_the_registry(registry: Registry) -> None:
    before = {figure.name: figure.value for figure in figures(registry)}
    building.promoted(registry, "run-1")
    registry.mark_reported("instance", "events", 0)
    building.dataset(registry, rows=9)
    after = {figure.name: figure.value for figure in figures(registry)}

    assert after["leaves"] > before["leaves"]
    assert after["leaves_unexported"] == 0
    assert after["leaves_unsigned"] == 1
    assert after["sensor_lag_leaves"] == after["leaves"] - 1
    assert after["alarms"] == 0
    text = exposition(figures(registry))
    assert 'artifact_pipelines_last_age_seconds{action="promote"}' in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="json and text"):
        tell("xml")


def test_prometheus_is_served_over_http(registry: Registry, tmp_path: Path) -> None:
    building.dataset(registry)
    variables = environment(tmp_path) | {
        "ARTIFACT_PIPELINES_CATALOG_URL": registry.catalog.url.render_as_string(hide_password=False)
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "artifact_pipelines.cli", "metrics", "serve", "--port", "0"],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        while "http://" not in said:
            said = process.stderr.readline()
        address = next(word for word in said.split() if word.startswith("http://"))
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  our own
            text = answer.read().decode()
        health = address.replace("/metrics", "/healthz")
        with urllib.request.urlopen(health, timeout=30) as answer:  # noqa: S310  our own
            well = answer.read().decode()
    finally:
        process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()

    assert "artifact_pipelines_leaves " in text
    assert well == "well\n"


def test_a_trainer_pays_for_no_metrics() -> None:
    imported = "import sys, artifact_pipelines.registry; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", imported],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert not {"prometheus_client", "opentelemetry"} & set(names)
