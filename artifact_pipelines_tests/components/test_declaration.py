"""A wrong field is named, with its file and what was expected."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.components.declaration import Dataset, declare
from artifact_pipelines.domain.gate import Serving
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import ConfigurationError, PolicyError
from artifact_pipelines_tests.world import SAMPLE, declaration, fields


def rows(**given: Any) -> Dataset:
    return Dataset(**{"name": "rows", "load": f"{SAMPLE}:table"} | given)


@pytest.mark.parametrize(
    "changes,field,expected",
    [
        ({"name": "../churn"}, "name", "ASCII letters"),
        ({"name": "c" * 64}, "name", "at most 63 characters"),
        ({"name": "registry"}, "name", "the platform's"),
        ({"owners": ["growth"]}, "owners.0", "team:name"),
        ({"datasets": [rows(owner="growth")]}, "datasets.0.owner", "team:name"),
        ({"datasets": []}, "datasets", "at least one"),
        ({"datasets": [rows(name="v3")]}, "datasets.0.name", "reads as a version"),
        ({"datasets": [rows(name="candidate")]}, "datasets.0.name", "taken by an asset"),
        ({"datasets": [rows(), rows()]}, "datasets.0.name", "names of their own"),
        ({"datasets": [rows(load="no.such:load")]}, "datasets.0.load", "no module 'no.such'"),
        ({"datasets": [rows(schema=f"{SAMPLE}:Rows")]}, "datasets.0.schema", "has no 'Rows'"),
        ({"datasets": [rows(params={"day": date(2026, 1, 1)})]}, "datasets.0.params", "in quotes"),
        ({"datasets": [rows(expectations="no.json")]}, "datasets.0.expectations", "no file in"),
        ({"train": f"{SAMPLE}:fitt"}, "train", "has no 'fitt'"),
        ({"train": "train.py"}, "train", "expected module:name"),
        ({"params": {"day": date(2026, 1, 1)}}, "params", "in quotes"),
        ({"evaluate": "elsewhere:measure"}, "evaluate", "no module 'elsewhere'"),
        ({"evaluation": "holdout"}, "evaluation", "one of the datasets: rows"),
        ({"gates": [{"metric": "loss"}]}, "gates.0", "min or max"),
        ({"gates": [{"metrik": "loss", "min": 1}]}, "gates.0", "missing"),
        (
            {"gates": [{"metric": "accuracy", "no_worse_than": "production", "mode": "min"}]},
            "gates.0.mode",
            "expected the same",
        ),
        ({"gates": [{"gate": f"{SAMPLE}:fairr"}]}, "gates.0.gate", "has no 'fairr'"),
        ({"gates": [{"serving": "no.such:predict"}]}, "gates.0.serving", "no module 'no.such'"),
        (
            {"gates": [{"serving": f"{SAMPLE}:measure", "golden": "no.json"}]},
            "gates.0.golden",
            "no file in",
        ),
        ({"limits": {"memory": "much"}}, "limits.memory", "8GB"),
        ({"promotion": {"rows": "automatic"}}, "promotion", "another asset's name"),
        ({"promotion": {"production": "by hand"}}, "promotion.production", "automatic"),
        ({"retention": {"forget_after": "soon"}}, "retention.forget_after", "30d"),
        ({"schedule": "at three"}, "schedule", "0 3 * * *"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declare(fields(**changes), [], "defs/churn/defs.yaml")

    said = str(caught.value)
    assert said.startswith("defs/churn/defs.yaml: ")
    assert f"{field!r}" in said or f"'{field}." in said
    assert expected in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"evaluate": None}, "need evaluate"),
        ({"gates": [{"metric": "a", "min": 1}] * 2}, "the gate a_min stands twice"),
    ],
)
def test_fields_that_do_not_go_together_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        declaration(**changes)


def test_staging_is_automatic_and_production_needs_a_person_unless_it_says_otherwise() -> None:
    promotion = declaration(promotion=None).policy.document()["promotion"]

    assert promotion == {"staging": "automatic", "production": {"approvals": 1}}
    assert declaration(promotion={}).policy.promotion == {}


def test_training_does_not_see_the_evaluation_data() -> None:
    both = declaration(datasets=[rows(), rows(name="holdout")], evaluation="holdout")

    assert [item.name for item in both.training_sets] == ["rows"]
    assert [item.name for item in declaration(evaluation="rows").training_sets] == ["rows"]


def test_expectations_are_part_of_the_policy(tmp_path: Path) -> None:
    suite = {"name": "s", "expectations": [{"type": "expect_column_to_exist", "kwargs": {}}]}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    changes = {"datasets": [rows(expectations="suite.json")]}

    found = declare(fields(**changes), [tmp_path / "below", tmp_path])
    assert found.policy.contracts["rows"].expectations == suite


def test_golden_rows_are_part_of_the_policy(tmp_path: Path) -> None:
    golden = {"inputs": [{"x": 1}], "outputs": [2]}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    gate = {"serving": f"{SAMPLE}:measure", "golden": "golden.json"}
    for written in (gate, Serving.model_validate(gate)):
        found = declare(fields(gates=[written]), [tmp_path])

        assert found.policy.document()["gates"] == [{**gate, "golden": golden}]
    with pytest.raises(PolicyError, match="names a file as its golden"):
        Policy.of({"gates": [gate]})


def test_a_layout_is_a_file_beside_the_project(tmp_path: Path) -> None:
    (tmp_path / "mlp.yaml").write_text("tensors: {w: {dtype: F32, shape: [n, 4]}}\n")
    found = declare(fields(gates=[{"schema": "mlp@1", "layout": "mlp.yaml"}]), [tmp_path])

    assert found.policy.document()["gates"] == [
        {"schema": "mlp@1", "layout": {"tensors": {"w": {"dtype": "F32", "shape": ["n", 4]}}}}
    ]
    (tmp_path / "mlp.yaml").write_text("tensors: {w: {shape: [n, 4]}}\n")
    with pytest.raises(ConfigurationError, match="dtype"):
        declare(fields(gates=[{"schema": "mlp@1", "layout": "mlp.yaml"}]), [tmp_path])
    (tmp_path / "mlp.yaml").write_text("tensors: {w: [\n")
    with pytest.raises(ConfigurationError, match=r"gates\.0\.layout"):
        declare(fields(gates=[{"schema": "mlp@1", "layout": "mlp.yaml"}]), [tmp_path])


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"expectations": []}'])
def test_expectations_that_expect_nothing_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)

    with pytest.raises(ConfigurationError, match=r"datasets\.0\.expectations"):
        declare(fields(datasets=[rows(expectations="suite.json")]), [tmp_path])


def test_a_dataset_comes_from_somewhere() -> None:
    with pytest.raises(ValueError, match="needs load"):
        Dataset(name="rows")
    with pytest.raises(ValueError, match="it has none"):
        Dataset(name="rows", asset="warehouse/customers", params={"day": 1})


def test_owners_are_in_the_policy_where_a_gate_asks_for_them() -> None:
    asked = declare(fields(owners=["team:growth"], gates=[{"owner": ["project"]}]), [])
    unasked = declare(fields(owners=["team:growth"], gates=[{"owner": ["data"]}]), [])

    assert asked.policy.owners == ("team:growth",)
    assert unasked.policy.owners == ()
