"""The gate on data: what a table must be, said by Pandera or Great Expectations."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from artifact_pipelines.domain.gate import Rows
from artifact_pipelines.domain.policy import Contract
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates.sandbox import Sandbox

if TYPE_CHECKING:
    import pandas as pd

    from artifact_pipelines.gates.case import Case

EXAMPLES: Final = 5
"""How many of the values that break a rule are kept as examples."""
MAX_REASONS: Final = 20


def read_dataset(folder: Path) -> "pd.DataFrame":
    """Return the rows of a dataset's Parquet files, in the order of their paths.

    Raises:
        InvalidFormatError: If the folder holds no Parquet file, or one that cannot be read.
    """
    import pandas as pd  # noqa: PLC0415 (a registry that reads no table should not pay for it)

    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise InvalidFormatError("a dataset needs at least one .parquet file.")
    try:
        frames = [pd.read_parquet(file) for file in files]
    except (ValueError, OSError, KeyError, TypeError, NotImplementedError) as error:
        raise InvalidFormatError(f"a dataset's Parquet file cannot be read: {error}.") from error
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def contract_gate(case: "Case") -> Finding:
    """Return whether the datasets of a case keep their contracts."""
    findings: list[Finding] = []
    for name, contract in sorted(case.policy.contracts.items()):
        folder = case.dataset(name)
        if folder is None:
            findings.append(Finding(name, passed=False, reasons=(f"{name} is not there",)))
            continue
        findings += sandboxed(case.sandbox, name, folder, contract)
    return joined("data_contract", findings)


def rows_gate(gate: Rows, case: "Case") -> Finding:
    """Return whether what a model predicts, or is given as features, keeps its contract."""
    contract = Contract.model_validate({"schema": gate.schema_, "expectations": gate.expectations})
    answers = case.sandbox.ask(
        f"the contract of {gate.name}",
        "rows_contract",
        modules=_modules(contract),
        name=gate.name,
        function=gate.function,
        model=None if gate.predictions is None else str(case.files),
        evaluation=str(case.evaluation),
        rules=contract.model_dump(mode="json", by_alias=True),
    )
    return joined(gate.name, [Finding.of(found) for found in answers])


def _modules(contract: Contract) -> list[str]:
    """Return the libraries that a contract needs."""
    modules = ["pandas", "pyarrow.parquet"]
    modules += ["pandera.pandas"] if contract.schema_ else []
    return modules + (["great_expectations"] if contract.expectations else [])


def joined(gate: str, findings: Sequence[Finding]) -> Finding:
    """Return several findings as that of one gate."""
    return Finding(
        gate,
        all(found.passed for found in findings),
        tuple(reason for found in findings for reason in found.reasons),
        {key: value for found in findings for key, value in found.values.items()},  # noqa: PD011
        {found.gate: found.evidence for found in findings if found.evidence} or None,
    )


def sandboxed(sandbox: Sandbox, name: str, folder: Path, contract: Contract) -> list[Finding]:
    """Return what each part of a dataset's contract found, looked at in a sandbox.

    Raises:
        SandboxError: The sandbox gave no answer.
    """
    answers = sandbox.ask(
        f"the contract of {name}",
        "contract",
        modules=_modules(contract),
        name=name,
        folder=str(folder),
        rules=contract.model_dump(mode="json", by_alias=True),
    )
    return [Finding.of(found) for found in answers]


def contract_findings(
    name: str, frame: "pd.DataFrame", contract: Contract, load: Callable[[str], Any]
) -> list[Finding]:
    """Return what each part of a dataset's contract found.

    Args:
        name: The dataset.
        frame: Its rows.
        contract: What it must be.
        load: Returns the object that `module:name` names.
    """
    findings = []
    if contract.schema_ is not None:
        schema = load(contract.schema_)
        findings.append(pandera_finding(frame, schema, gate=f"{name}_schema", subject=name))
    if contract.expectations is not None:
        suite = contract.expectations
        gate = f"{name}_expectations"
        findings.append(expectations_finding(frame, suite, gate=gate, subject=name))
    return findings


def pandera_finding(
    frame: "pd.DataFrame",
    schema: Any,  # noqa: ANN401 (a Pandera DataFrameModel or DataFrameSchema)
    *,
    gate: str = "schema",
    subject: str = "the table",
) -> Finding:
    """Return whether a table keeps a Pandera schema.

    Args:
        frame: The table.
        schema: A Pandera `DataFrameModel` or `DataFrameSchema`.
        gate: The name of the finding.
        subject: What the reasons call the table.
    """
    with _quiet():
        import pandera.errors

        try:
            schema.validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as error:
            broken = [_pandera_rule(one, len(frame)) for one in error.schema_errors]
        else:
            broken = []
    return _finding(gate, subject, len(frame), broken, "keeps its schema")


def expectations_finding(
    frame: "pd.DataFrame",
    suite: Mapping[str, Any],
    *,
    gate: str = "expectations",
    subject: str = "the table",
) -> Finding:
    """Return whether a table meets a Great Expectations suite.

    Args:
        frame: The table.
        suite: The suite in its JSON form: `{"name": …, "expectations": [{"type", "kwargs"}…]}`.
        gate: The name of the finding.
        subject: What the reasons call the table.
    """
    wanted = suite.get("expectations")
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
        reason = f"the suite for {subject} holds no expectation, so it proves nothing"
        return Finding(gate, passed=False, reasons=(reason,))
    # Read when the library is first imported: nothing of a user's leaves the machine unasked.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with _quiet():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig
        from great_expectations.expectations.expectation_configuration import (
            ExpectationConfiguration,
        )

        context = gx.get_context(mode="ephemeral")
        context.enable_analytics(enable=False)
        context.variables.progress_bars = ProgressBarsConfig(
            globally=False, metric_calculations=False
        )
        rules = []
        for one in wanted:
            # One by one: a suite drops an expectation that it does not know, and then passes.
            try:
                rule = ExpectationConfiguration(type=one["type"], kwargs=one["kwargs"])
                rules.append(rule.to_domain_obj())
            except Exception as error:  # noqa: BLE001 (of many kinds, which all mean the same)
                reason = f"the suite for {subject} cannot be read: {_said(one, error)}"
                return Finding(gate, passed=False, reasons=(reason,))
        expected = gx.ExpectationSuite(name=_name(suite), expectations=rules)
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset("table")
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
        outcome = batch.validate(expected).to_json_dict()  # type: ignore[no-untyped-call]
    results: Iterable[Mapping[str, Any]] = outcome["results"]
    broken = [_expected_rule(one, len(frame)) for one in results if not one["success"]]
    if len(outcome["results"]) != len(wanted):
        broken.append((f"only {len(outcome['results'])} of {len(wanted)} expectations ran", {}))
    return _finding(gate, subject, len(frame), broken, f"meets {len(wanted)} expectations")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries warn of among themselves out of a user's run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _finding(
    gate: str,
    subject: str,
    rows: int,
    broken: Sequence[tuple[str, Mapping[str, Any]]],
    kept: str,
) -> Finding:
    """Return the finding on the rules that were broken."""
    if not broken:
        return Finding(
            gate,
            passed=True,
            reasons=(f"{subject}: {kept} in {rows} rows",),
            evidence={"rows": rows},
        )
    reasons = [f"{subject}: {reason}" for reason, _ in broken[:MAX_REASONS]]
    if len(broken) > MAX_REASONS:
        reasons.append(f"{subject}: {len(broken) - MAX_REASONS} more rules are broken")
    rules = [{"rule": reason, **details} for reason, details in broken]
    return Finding(
        gate, passed=False, reasons=tuple(reasons), evidence={"rows": rows, "broken": rules}
    )


def _pandera_rule(error: Any, rows: int) -> tuple[str, dict[str, Any]]:  # noqa: ANN401
    """Return one broken rule of a Pandera schema as a clause and its details."""
    code = error.reason_code.name if error.reason_code else ""
    if code == "COLUMN_NOT_IN_DATAFRAME":
        return f"column {error.failure_cases} is missing", {}
    if code == "COLUMN_NOT_IN_SCHEMA":
        return f"column {error.failure_cases} is not in the schema", {}
    whole = type(error.schema).__name__ == "DataFrameSchema"
    column = "the table" if whole else f"column {error.schema.name}"
    if code in {"WRONG_DATATYPE", "CHECK_ERROR"}:
        return f"{column}: {_first_line(error)}", {}
    rule = str(getattr(error.check, "error", None) or getattr(error.check, "name", error.check))
    cases = error.failure_cases
    if not hasattr(cases, "itertuples"):
        return f"{column}: {rule} does not hold", {}
    found = list(zip(cases["index"], cases["failure_case"], strict=True))
    count = len({str(row) for row, _ in found})
    row, value = found[0]
    details = {
        "count": count,
        "values": [_plain(value) for _, value in found[:EXAMPLES]],
        "rows": [_plain(row) for row, _ in found[:EXAMPLES]],
    }
    example = f"for example {_plain(value)} in row {_plain(row)}"
    return f"{column}: {rule} does not hold in {count} of {rows} rows, {example}", details


def _expected_rule(result: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
    """Return one expectation that was not met as a clause and its details."""
    config = result["expectation_config"]
    kwargs = {name: value for name, value in config["kwargs"].items() if name != "batch_id"}
    column = kwargs.pop("column", None)
    said = ", ".join(f"{name}={value}" for name, value in sorted(kwargs.items()))
    rule = f"{config['type']}({said})" + (f" for column {column}" if column else "")
    found = result["result"]
    if trouble := _trouble(result.get("exception_info")):
        return f"{rule} could not be tested: {trouble}", {}
    if "unexpected_count" in found:
        count, total = found["unexpected_count"], found.get("element_count", rows)
        details = {
            "count": count,
            "values": found.get("partial_unexpected_list", [])[:EXAMPLES],
            "rows": found.get("partial_unexpected_index_list", [])[:EXAMPLES],
        }
        return f"{rule} is not met in {count} of {total} rows", details
    return f"{rule} is not met: found {found.get('observed_value')}", {}


def _trouble(info: Any) -> str | None:  # noqa: ANN401
    """Return what an expectation raised, if it did."""
    if not isinstance(info, Mapping):
        return None
    if "raised_exception" in info:
        raised = info["raised_exception"]
        return _first_line(info.get("exception_message")) if raised else None
    return next((found for one in info.values() if (found := _trouble(one))), None)


def _name(suite: Mapping[str, Any]) -> str:
    """Return the name of a suite."""
    return str(suite.get("name") or "expectations")


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value of a table as JSON can carry it."""
    value = value.item() if hasattr(value, "item") else value
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _said(one: object, error: Exception) -> str:
    """Return what is wrong with an expectation, in one line."""
    kind = one.get("type", "no type") if isinstance(one, Mapping) else f"{one!r}"
    return f"{kind}: {' '.join(str(error).split())[:200]}"


def _first_line(error: object) -> str:
    """Return what an error says, in one line."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__
