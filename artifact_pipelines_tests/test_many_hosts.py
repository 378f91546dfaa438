"""Hosts whose clocks are ten years apart publish, promote and prune at once on Postgres."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import libfaketime  # type: ignore[import-untyped]
import pytest

from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Postgres

ROOT = Path(__file__).parent.parent
CLOCKS = {"past": "-5y", "now": "+0", "future": "+5y"}
ROUNDS = 6

HOST = """\
import json, sys, time
from pathlib import Path
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests import building

name, home, url, rounds = sys.argv[1:]
made, refused = [], []
with open_registry(Path(home), catalog_url=url, actor=name) as registry:
    for number in range(int(rounds)):
        seed = 100 * (1 + ["past", "now", "future"].index(name)) + number
        try:
            model = building.candidate(registry, f"{name}-{number}", seed=seed)
            made.append(model.reference)
            registry.promote(model.reference, "staging")
        except ArtifactError as error:
            refused.append(f"{type(error).__name__}: {error}")
        try:
            registry.prune(grace=0)
        except ArtifactError as error:
            refused.append(f"{type(error).__name__}: {error}")
print(json.dumps({"clock": time.time(), "made": made, "refused": refused}))
"""


def host(name: str, home: Path, url: str) -> subprocess.Popen[bytes]:
    """Start a process that believes in another time."""
    library = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src"
    return subprocess.Popen(
        [sys.executable, "-c", HOST, name, str(home), url, str(ROUNDS)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(library / "libfaketime.so.1"),
            "FAKETIME": CLOCKS[name],
            "DONT_FAKE_MONOTONIC": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_hosts_with_clocks_ten_years_apart_lose_nothing(postgres: Postgres, tmp_path: Path) -> None:
    home, url = tmp_path / "home", postgres.catalog()
    with open_registry(home, catalog_url=url, actor="tester") as registry:
        registry.set_policy(PROJECT, building.POLICY)
        building.dataset(registry)
    hosts = {name: host(name, home, url) for name in CLOCKS}
    said = {}
    for name, process in hosts.items():
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err.decode()
        said[name] = json.loads(out)

    years = 365 * 24 * 3600.0
    assert said["future"]["clock"] - said["past"]["clock"] > 9.9 * years
    with open_registry(home, catalog_url=url, actor="tester") as registry:
        made = [reference for found in said.values() for reference in found["made"]]
        numbers = sorted(model.version or 0 for model in registry.models(PROJECT))
        events = registry.events(limit=100_000)

        # Nothing that was acknowledged is lost, and every byte of it reads back.
        assert len(made) == len(set(made)) >= ROUNDS
        assert set(made) <= {model.reference for model in registry.models(PROJECT)}
        assert numbers == list(range(1, len(numbers) + 1))
        for reference in made:
            assert registry.verify(reference).ok
        assert registry.scrub().ok
        # One history, without gaps, whose times do not go back and are the database's.
        assert [event.seq for event in events] == list(range(len(events)))
        assert [event.time for event in events] == sorted(event.time for event in events)
        assert events[-1].time < f"{time.gmtime().tm_year + 1}"
        assert registry.sign_head().size == len(events)
        assert registry.verify_ledger().problems == ()
        assert registry.prune(grace=0).disagreements == ()
    # What was refused was refused by a rule, and said so.
    reasons = [reason for found in said.values() for reason in found["refused"]]
    assert all(reason.partition(":")[0].endswith("Error") for reason in reasons), reasons
