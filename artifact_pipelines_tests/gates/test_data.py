"""Tables keep their schema and meet their expectations, or the finding names the rules."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from pandera.typing.pandas import Series

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Contract
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates import data
from artifact_pipelines.gates.data import (
    contract_findings,
    expectations_finding,
    pandera_finding,
    read_dataset,
)


class Readings(pa.DataFrameModel):
    """Readings of a sensor."""

    value: Series[np.float64] = pa.Field(ge=0, le=16)
    label: Series[np.int64] = pa.Field(isin=range(3))

    class Config:
        strict = True

    @pa.dataframe_check(error="the labels are in order")
    @classmethod
    def ordered(cls, frame: pd.DataFrame) -> bool:
        return bool(frame["label"].is_monotonic_increasing)


GOOD = pd.DataFrame({"value": [0.0, 8.0, 16.0], "label": [0, 1, 2]})
SUITE = {
    "name": "readings",
    "expectations": [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 3}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "value"}},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "value", "min_value": 0, "max_value": 16},
        },
    ],
}


def expectation(kind: str, **kwargs: object) -> dict[str, Any]:
    return {"expectations": [{"type": kind, "kwargs": kwargs}]}


@pytest.mark.parametrize("schema", [Readings, Readings.to_schema()], ids=["model", "schema"])
def test_a_table_that_keeps_its_schema_passes(schema: object) -> None:
    finding = pandera_finding(GOOD, schema, gate="readings_schema", subject="readings")

    assert (finding.gate, finding.passed) == ("readings_schema", True)
    assert finding.reasons == ("readings: keeps its schema in 3 rows",)
    assert finding.evidence == {"rows": 3}


@pytest.mark.parametrize(
    "frame, reason",
    [
        (
            GOOD.assign(value=[0.0, 17.0, 18.0]),
            "column value: less_than_or_equal_to(16) does not hold in 2 of 3 rows, for example 17",
        ),
        (
            GOOD.assign(value=[0.0, np.nan, 1.0]),
            "column value: not_nullable does not hold in 1 of 3 rows, for example nan in row 1",
        ),
        (GOOD.drop(columns="value"), "column value is missing"),
        (GOOD.assign(more=1), "column more is not in the schema"),
        (
            GOOD.assign(value=[1, 2, 3]),
            "column value: expected series 'value' to have type float64, got int64",
        ),
        (GOOD.assign(label=[2, 1, 0]), "table: the labels are in order does not hold"),
    ],
)
def test_a_broken_rule_is_told_in_one_line(frame: pd.DataFrame, reason: str) -> None:
    finding = pandera_finding(frame, Readings, subject="readings")

    assert not finding.passed
    assert any(reason in told for told in finding.reasons)
    assert all("\n" not in told and told.startswith("readings: ") for told in finding.reasons)


def test_a_check_that_cannot_run_fails_without_its_traceback() -> None:
    frame = GOOD.assign(value=["a", "b", "c"])
    finding = pandera_finding(frame, Readings)

    assert not finding.passed
    assert not any("Traceback" in reason or "\n" in reason for reason in finding.reasons)


def test_evidence_keeps_a_few_examples_and_can_be_stored() -> None:
    frame = pd.DataFrame({"value": np.arange(20.0, 40.0), "label": np.zeros(20, dtype=np.int64)})
    finding = pandera_finding(frame, Readings)

    assert finding.evidence is not None
    [broken] = finding.evidence["broken"]
    assert broken["count"] == 20
    assert broken["values"] == [20.0, 21.0, 22.0, 23.0, 24.0]
    assert broken["rows"] == [0, 1, 2, 3, 4]
    assert digest.canonical(finding.evidence)


def test_many_broken_rules_are_counted_and_not_all_told() -> None:
    schema = pa.DataFrameSchema({f"c{index:02}": pa.Column(int) for index in range(50)})
    finding = pandera_finding(GOOD, schema)

    assert len(finding.reasons) == data.MAX_REASONS + 1
    assert finding.reasons[-1] == "the table: 30 more rules are broken"


def test_the_table_is_not_changed_by_looking() -> None:
    frame = GOOD.assign(value=[1, 2, 3])
    pandera_finding(frame, pa.DataFrameSchema({"value": pa.Column(float, coerce=True)}))

    assert frame["value"].dtype == np.int64


def test_a_table_that_meets_its_expectations_passes() -> None:
    finding = expectations_finding(GOOD, SUITE, gate="readings_expectations", subject="readings")

    assert (finding.gate, finding.passed) == ("readings_expectations", True)
    assert finding.reasons == ("readings: meets 3 expectations in 3 rows",)


@pytest.mark.parametrize(
    "suite, reason",
    [
        (
            expectation("expect_column_values_to_be_in_set", column="label", value_set=[0]),
            "_to_be_in_set(value_set=[0]) for column label is not met in 2 of 3 rows",
        ),
        (
            expectation("expect_table_row_count_to_equal", value=4),
            "expect_table_row_count_to_equal(value=4) is not met: found 3",
        ),
        (
            expectation("expect_column_values_to_not_be_null", column="nowhere"),
            "for column nowhere could not be tested",
        ),
        (
            expectation("expect_column_mean_to_be_between", column="label", min_value=2),
            "is not met: found 1.0",
        ),
    ],
)
def test_an_expectation_that_is_not_met_is_told_in_one_line(
    suite: dict[str, Any], reason: str
) -> None:
    finding = expectations_finding(GOOD, suite)

    assert not finding.passed
    [told] = finding.reasons
    assert reason in told
    assert "\n" not in told
    assert digest.canonical(finding.evidence)


@pytest.mark.parametrize(
    "suite, reason",
    [
        ({}, "holds no expectation"),
        ({"expectations": []}, "holds no expectation"),
        ({"expectations": "all"}, "holds no expectation"),
        ({"expectations": ["all"]}, "cannot be read: 'all'"),
        ({"expectations": [{"kwargs": {}}]}, "cannot be read: no type"),
        ({"expectations": [{"type": "expect_table_row_count_to_equal"}]}, "cannot be read"),
        (expectation("expect_the_best"), "expect_the_best not found"),
        (expectation("expect_column_values_to_not_be_null", colum="value"), "cannot be read"),
    ],
)
def test_a_suite_that_cannot_be_read_fails_and_is_never_passed_over(
    suite: dict[str, Any], reason: str
) -> None:
    finding = expectations_finding(GOOD, suite)

    assert not finding.passed
    assert reason in finding.reasons[0]


def test_looking_warns_of_nothing_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    expectations_finding(GOOD, SUITE)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        expectations_finding(GOOD.assign(value=99.0), SUITE)
        pandera_finding(GOOD.assign(value=99.0), Readings)

    assert capfd.readouterr() == ("", "")
    assert not warned


WATCHED = """
import sys
import pandas as pd
from artifact_pipelines.gates.data import expectations_finding
told = []
def hear(event, _):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"}:
        told.append(event)
sys.addaudithook(hear)
suite = {"expectations": [{"type": "expect_table_row_count_to_equal", "kwargs": {"value": 1}}]}
assert expectations_finding(pd.DataFrame({"a": [1]}), suite).passed
print(told)
"""


def test_the_first_look_in_a_process_connects_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_a_contract_is_judged_part_by_part() -> None:
    contract = Contract.model_validate({"schema": "sensors:Readings", "expectations": SUITE})
    known = {"sensors:Readings": Readings}
    findings = contract_findings("readings", GOOD, contract, known.__getitem__)

    assert [(one.gate, one.passed) for one in findings] == [
        ("readings_schema", True),
        ("readings_expectations", True),
    ]


def test_an_empty_contract_finds_nothing() -> None:
    known: dict[str, object] = {}

    assert contract_findings("readings", GOOD, Contract(), known.__getitem__) == []


def test_a_dataset_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name, part in (("b", GOOD[2:]), ("a", GOOD[:2])):
        part.to_parquet(tmp_path / f"{name}.parquet")

    pd.testing.assert_frame_equal(read_dataset(tmp_path), GOOD)


def test_a_dataset_in_one_file_is_read_as_it_is(tmp_path: Path) -> None:
    GOOD.to_parquet(tmp_path / "rows.parquet")

    pd.testing.assert_frame_equal(read_dataset(tmp_path), GOOD)


def test_a_dataset_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")

    with pytest.raises(InvalidFormatError, match="at least one"):
        read_dataset(tmp_path)


def test_a_dataset_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not a table PAR1")

    with pytest.raises(InvalidFormatError, match="cannot be read"):
        read_dataset(tmp_path)


def test_the_suite_of_the_example_is_met_by_its_data() -> None:
    from digits_project import data as digits

    suite = Path(digits.__file__).parent / "expectations/images.json"

    finding = expectations_finding(digits.load(900, 1500), json.loads(suite.read_text()))

    assert finding.passed
