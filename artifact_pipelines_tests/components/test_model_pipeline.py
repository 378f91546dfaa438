"""A project's YAML becomes its assets, checks, jobs and schedules, or one clear sentence."""

import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from artifact_pipelines.components import ModelPipeline
from artifact_pipelines.components.model_pipeline import definitions_of
from artifact_pipelines.components.project import ALL_ASSETS_JOB
from artifact_pipelines.defs import location
from artifact_pipelines.defs.location import places
from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.project import load_project, with_registry
from artifact_pipelines_tests.world import PROJECT, ROOT, declaration

YAML = """
type: artifact_pipelines.components.ModelPipeline
attributes:
  name: churn
  owners: ["team:growth"]
  datasets:
    - {name: rows, load: "artifact_pipelines_tests.sample:table", params: {rows: 6}}
  train: artifact_pipelines_tests.sample:fit
  params: {epochs: 3}
  evaluate: artifact_pipelines_tests.sample:measure
  evaluation: rows
  select: {metric: accuracy, mode: max, try: 3}
  gates:
    - {metric: accuracy, min: 0.2}
    - {metric: accuracy, no_worse_than: production, tolerance: 0.005}
    - {formats: [safetensors]}
  retention: {keep: {last: 3, best: 1}, forget_after: 30d}
  schedule: "0 3 * * *"
"""

PYPROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "{name}"
"""

Load = Callable[[str], dg.Definitions]


@pytest.fixture
def load(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Load]:
    """Load a project that a YAML declares, from a package of its own."""
    name = "user_" + re.sub(r"\W", "_", request.node.name).lower()
    package = tmp_path / name
    (package / "defs" / "churn").mkdir(parents=True)
    for folder in (package, package / "defs"):
        (folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(name=name))

    def loaded(text: str) -> dg.Definitions:
        (package / "defs" / "churn" / "defs.yaml").write_text(dedent(text))
        return load_project(str(package / "definitions.py"))

    path = list(sys.path)
    # Dagster remembers the storage of whichever instance was opened last in this process.
    with dg.DagsterInstance.ephemeral():
        yield loaded
    sys.path[:] = path
    for module in [found for found in sys.modules if found.split(".")[0] == name]:
        del sys.modules[module]


def test_a_folder_that_is_no_project_yet_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "unfinished_project"
    package.mkdir()
    (package / "__init__.py").touch()
    with pytest.raises(ConfigurationError, match=r"has a \[tool\.dg\]; write one"):
        load_project(str(package / "definitions.py"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(name=package.name))
    with pytest.raises(ConfigurationError, match=r"has no folder defs/; a project's YAML is"):
        load_project(str(package / "definitions.py"))


def test_a_yaml_becomes_a_code_location(load: Load) -> None:
    definitions = load(YAML)

    dg.Definitions.validate_loadable(definitions)
    assert {key.path[-1] for key in definitions.resolve_all_asset_keys()} == {
        "rows",
        "training_run",
        "checkpoints",
        "candidate",
        "staging",
        "production",
        "retention_plan",
        "cleanup",
    }
    assert len(list(definitions.sensors or ())) == 1
    assert places(definitions).keys() == {PROJECT}


def test_several_projects_in_one_location_share_one_sensor(load: Load) -> None:
    definitions = load(YAML + "---" + YAML.replace("name: churn", "name: fraud"))

    assert places(definitions).keys() == {"churn", "fraud"}
    assert len(list(definitions.sensors or ())) == 1
    assert {found.name.rpartition("_")[2] for found in definitions.schedules or ()} == {
        "nightly",
        "retrain",
    }
    assert len(list(definitions.schedules or ())) == 4


@pytest.mark.parametrize(
    "old,new,said",
    [
        ("owners:", "owner:", ":5: the field 'owner' is wrong: .* 'owners' may be meant"),
        ("owners:", "xyz:", ":5: the field 'xyz' is wrong: .* expected one of name, owners"),
        (
            "formats:",
            "format:",
            ":16: the field 'gates.2.format' is wrong: .* 'formats' may be meant",
        ),
        (
            "evaluation: rows",
            "promotion: {production: {approvals: one}}",
            "'promotion.production.approvals' .* valid integer",
        ),
        (
            "evaluation: rows",
            "promotion: {production: by hand}",
            "'promotion.production' .* or approvals with a number",
        ),
        ("last: ", "lst: ", "'retention.keep.lst' is wrong: .* 'last' may be meant"),
        ("mode: max", "mode: max: min", r"defs.yaml:\d+: this is no YAML: .* mapping"),
        ("  train: artifact_pipelines_tests.sample:fit", "", "the field 'train' .* missing"),
        ("mode: max", "mode: largest", ":12: the field 'select.mode' .* 'max' or 'min'"),
        ("try: 3", "try: many", "the field 'select.try' .* valid integer"),
        ("min: 0.2", "minimum: 0.2", "the field 'gates.0.minimum' is wrong: there is no such"),
        ("30d", "a month", "the field 'retention.forget_after' .* 30d or 4w"),
        ("[safetensors]", "[pickle]", "the field 'gates.2.formats.0' .* 'safetensors'"),
        ("{rows: 6}", "[6]", "the field 'datasets.0.params' .* dictionary"),
        ("sample:fit", "sample:fitt", "the field 'train' .* has no 'fitt'"),
        ("name: churn", "name: ../churn", "the field 'name' .* ASCII letters"),
        ("evaluation: rows", "evaluation: row", "expected one of the datasets: rows"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(load: Load, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(YAML.replace(old, new, 1))

    assert "/defs/churn/defs.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_component_describes_its_fields() -> None:
    model = ModelPipeline.get_model_cls()
    assert model is not None
    fields = model.model_json_schema()

    assert all(found.get("description") for found in fields["properties"].values())
    assert {"MetricBound", "NoWorse", "Formats", "Retention", "Dataset"} <= fields["$defs"].keys()


def outline(defs: dg.Definitions) -> dict[str, object]:
    """Return what a code location holds, as people see it."""
    graph = defs.resolve_asset_graph()
    keys = sorted(graph.get_all_asset_keys(), key=str)
    return {
        "assets": {
            key.to_user_string(): {
                "after": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
                "partitioned": graph.get(key).is_partitioned,
                "description": graph.get(key).description,
                "owners": graph.get(key).owners,
                "kinds": sorted(graph.get(key).kinds),
                "group": graph.get(key).group_name,
            }
            for key in keys
        },
        "checks": sorted(str(key) for key in graph.asset_check_keys),
        "jobs": sorted(
            (job.name, dict(job.tags))
            for job in defs.resolve_all_job_defs()
            if not job.name.startswith("__")
        ),
        "schedules": sorted(
            (found.name, str(found.cron_schedule), found.default_status.value, found.description)
            for found in (defs.resolve_schedule_def(one.name) for one in defs.schedules or ())
        ),
        "sensors": sorted(
            (found.name, found.default_status.value, found.description)
            for found in (defs.resolve_sensor_def(one.name) for one in defs.sensors or ())
        ),
    }


def test_the_graph_of_the_example(snapshot: SnapshotAssertion) -> None:
    from digits_project.definitions import defs

    assert outline(defs) == snapshot


def test_the_graph_of_the_platform(snapshot: SnapshotAssertion) -> None:
    from artifact_pipelines.definitions import defs

    assert outline(defs) == snapshot


def test_a_yaml_that_is_no_yaml_names_its_line(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"defs.yaml:13: this is no YAML: .* ':'"):
        load(YAML.replace("  gates:", "  gates"))


def test_retraining_by_schedule_has_a_name_of_its_own(tmp_path: Path) -> None:
    declared = declaration(schedule="0 3 * * *")
    definitions = with_registry(definitions_of(declared, ROOT), "growth")
    retrain = definitions.resolve_schedule_def("churn_retrain")
    at = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for _ in range(2):
            with dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=at,
                repository_def=definitions.get_repository_def(),
            ) as context:
                requests = retrain.evaluate_tick(context).run_requests
            assert requests is not None
            assert [found.partition_key for found in requests] == ["sched-20261123T030000Z"]
            assert [found.run_key for found in requests] == ["sched-20261123T030000Z"]

        assert instance.get_dynamic_partitions("churn_runs") == ["sched-20261123T030000Z"]


def test_a_repository_keeps_its_own_executor_and_resources() -> None:
    own = dg.Definitions(executor=dg.multiprocess_executor, resources={"registry": object()})
    found = with_registry(own, "legacy")

    assert found.executor is dg.multiprocess_executor
    assert (found.resources or {}).keys() == {"registry", "step_values", "trainer"}
    assert not found.sensors


def test_dagster_names_the_job_over_all_assets_as_we_do(load: Load) -> None:
    job = load(YAML).resolve_implicit_global_asset_job_def()

    assert job.name == ALL_ASSETS_JOB


def test_a_large_location_has_no_jobs_but_all_schedules(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "MOST_PROJECTS_WITH_JOBS", 1)
    definitions = load(YAML + "---" + YAML.replace("name: churn", "name: fraud"))

    assert [job.name for job in definitions.resolve_all_job_defs()] == [ALL_ASSETS_JOB]
    assert len(list(definitions.schedules or ())) == 4


def test_text_that_looks_like_a_number_stays_text_and_templates_are_filled_in(load: Load) -> None:
    definitions = load(
        YAML.replace("name: churn", 'name: "2026"')
        .replace("epochs: 3", 'epochs: "3"')
        .replace("team:growth", "team:{{ 'gro' ~ 'wth' }}")
    )

    assert places(definitions).keys() == {"2026"}
    candidate = definitions.resolve_asset_graph().get(dg.AssetKey(["2026", "candidate"]))
    assert candidate.owners == ["team:growth"]
