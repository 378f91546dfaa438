"""A gate that fails to look has failed, and every verdict can name the code behind it."""

import functools
import sys
from pathlib import Path
from types import ModuleType

import pytest

from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import ConfigurationError, SandboxError
from artifact_pipelines.gates import guard, jobs
from artifact_pipelines.gates.guard import gate_code_digest, guarded

FINE = Finding("fine", passed=True, reasons=("it is fine",))


def test_what_a_gate_finds_is_handed_on() -> None:
    assert guarded("fine", lambda: FINE) is FINE


@pytest.mark.parametrize(
    "error",
    [ValueError("no such column"), SystemExit("no such column"), MemoryError("no such column")],
)
def test_a_gate_that_raises_has_failed_for_that_reason(error: BaseException) -> None:
    def look() -> Finding:
        raise error

    finding = guarded("odd", look)

    assert not finding.passed
    assert finding.gate == "odd"
    assert finding.reasons == (f"the gate raised {type(error).__name__}: no such column",)


def test_a_sandbox_says_itself_what_went_wrong() -> None:
    def look() -> Finding:
        raise SandboxError("the evaluation took longer than 5 s")

    assert guarded("odd", look).reasons == ("the evaluation took longer than 5 s",)


def test_an_interrupted_gate_is_interrupted() -> None:
    def look() -> Finding:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("odd", look)


def test_a_gate_that_finds_nothing_has_failed() -> None:
    finding = guarded("odd", lambda: None)  # type: ignore[arg-type,return-value]

    assert finding.reasons == ("the gate gave a NoneType in place of a finding",)
    assert not finding.passed


def module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    made = ModuleType(name)
    made.__file__ = str(path)
    sys.modules[name] = made
    exec(compile(text, path, "exec"), made.__dict__)  # noqa: S102
    return made


def digest_of(function: object) -> str:
    return gate_code_digest({"project:evaluate": jobs.source_of(function)})


def test_the_digest_names_the_code_of_the_gates_and_of_the_project(tmp_path: Path) -> None:
    text = "def evaluate(model, frame):\n    return {}\n"
    first = module(tmp_path, "project_one", text)
    alone, both = gate_code_digest({}), digest_of(first.evaluate)
    Path(str(first.__file__)).write_text(text + "# changed\n")

    assert alone == gate_code_digest({})
    assert len({alone, both, digest_of(first.evaluate)}) == 3


def test_the_digest_does_not_depend_on_where_a_project_lies(tmp_path: Path) -> None:
    text = "def evaluate(model, frame):\n    return {}\n"
    digests = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        digests.add(digest_of(module(tmp_path / place, "project_two", text).evaluate))

    assert len(digests) == 1


def test_a_function_is_found_behind_its_decorators(tmp_path: Path) -> None:
    made = module(tmp_path, "project_three", "def evaluate(model, frame):\n    return {}\n")

    @functools.wraps(made.evaluate)
    def wrapped() -> None:
        """Wrap it."""

    assert digest_of(wrapped) == digest_of(made.evaluate)


def test_an_object_that_can_be_called_is_named_by_its_class() -> None:
    class Evaluate:
        def __call__(self) -> dict[str, float]:
            return {}

    assert digest_of(Evaluate()) == digest_of(Evaluate)


@pytest.mark.parametrize("function", [len, functools.partial(len)])
def test_code_without_a_source_file_is_refused(function: functools.partial[int]) -> None:
    with pytest.raises(ConfigurationError, match="has no source file"):
        digest_of(function)


def test_every_gate_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gate_code_digest({})
    for file in Path(guard.__file__).parent.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(guard, "__file__", str(tmp_path / "guard.py"))

    assert gate_code_digest({}) == before
    for file in sorted(tmp_path.glob("*.py")):
        text = file.read_bytes()
        file.write_bytes(text + b"\n")
        assert gate_code_digest({}) != before, file.name
        file.write_bytes(text)
