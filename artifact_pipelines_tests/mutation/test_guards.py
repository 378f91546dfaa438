"""Each guard is in the code, has a test of its own effect, and that test fails without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import artifact_pipelines
from artifact_pipelines_tests.mutation.guards import GUARDS, TESTS
from artifact_pipelines_tests.mutation.removing import VARIABLE

ROOT = Path(artifact_pipelines.__file__).parent.parent
PAGE = ROOT / "docs" / "guards.md"


def run(*tests: str, without: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if without is not None:
        environment[VARIABLE] = without
    plugin = f"{TESTS}.mutation.removing"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", plugin, "-p", "no:randomly"]
    return subprocess.run(
        [*command, "-m", "", *(f"{TESTS}/{test}" for test in tests)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_lists_every_guard_with_its_test() -> None:
    text = PAGE.read_text()

    for name, guard in GUARDS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert guard.what in row
        assert guard.test.rpartition("::")[2].partition("[")[0] in row


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_is_in_the_code_as_it_is_taken_out(name: str) -> None:
    assert GUARDS[name].line in GUARDS[name].source()


@pytest.mark.deep
@pytest.mark.timeout(1_200)
def test_the_tests_of_all_guards_pass_with_them() -> None:
    done = run(*dict.fromkeys(guard.test for guard in GUARDS.values()))

    assert done.returncode == 0, done.stdout


@pytest.mark.deep
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", GUARDS)
def test_the_test_of_a_guard_fails_without_it(name: str) -> None:
    done = run(GUARDS[name].test, without=name)

    assert done.returncode == 1, f"{name}: {done.stdout}{done.stderr}"
    assert "1 failed" in done.stdout
