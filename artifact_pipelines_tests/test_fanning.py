"""The environment says what carries the steps of a code location."""

import sys

import dagster as dg
import pytest

from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.fanning import BROKER, StepValues, executor

EXECUTOR = "ARTIFACT_PIPELINES_EXECUTOR"


@pytest.mark.parametrize(
    "asked,name",
    [
        ("", "in_process"),
        ("in-process", "in_process"),
        ("multiprocess", "multiprocess"),
        ("celery", "celery"),
        ("kubernetes", "k8s"),
    ],
)
def test_an_engine_is_chosen_by_its_name(
    monkeypatch: pytest.MonkeyPatch, asked: str, name: str
) -> None:
    if asked == "celery":
        pytest.importorskip("dagster_celery")
    monkeypatch.setenv(EXECUTOR, asked)
    monkeypatch.setenv(BROKER, "redis://broker:6379/0")

    assert executor().name == name


def test_an_engine_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXECUTOR, "slurm")

    with pytest.raises(ConfigurationError, match="'slurm'; expected in-process or multiprocess"):
        executor()


def test_celery_without_a_broker_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_celery")
    monkeypatch.setenv(EXECUTOR, "celery")
    monkeypatch.delenv(BROKER, raising=False)

    with pytest.raises(ConfigurationError, match=f"{BROKER} does not say where"):
        executor()


@pytest.mark.parametrize(
    "asked,module", [("celery", "dagster_celery"), ("kubernetes", "dagster_k8s")]
)
def test_an_engine_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, asked: str, module: str
) -> None:
    monkeypatch.setenv(EXECUTOR, asked)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"pip install 'artifact-pipelines\[{asked}\]'"):
        executor()


def test_what_steps_hand_on_is_json_in_the_store(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_STORE_URL", f"memory://{abs(hash(request.node.name))}")
    out = dg.build_output_context(step_key="a.shard[0001]", name="result", run_id="run-1")
    values = StepValues()
    values.handle_output(out, {"packs": ["a"], "last": 3})

    assert values.load_input(dg.build_input_context(upstream_output=out)) == {
        "packs": ["a"],
        "last": 3,
    }
