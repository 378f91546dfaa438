"""Whatever is changed in a bundle is found, with the right reason, by the verifier inside it."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from artifact_pipelines.registry import verify
from artifact_pipelines_tests.proof.evidence import Evidence, contents, evidence
from artifact_pipelines_tests.proof.mutating import Mutation, Mutator

SEED = 20261124
SLICE, ALL = 400, 6_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return evidence(tmp_path_factory.mktemp("mutations"))


@contextmanager
def applied(bundle: Evidence, mutation: Mutation) -> Iterator[Path]:
    """Change the bundle, and put it back afterwards."""
    for name, data in mutation.files.items():
        path = bundle.folder / name
        if data is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    yield bundle.folder
    for name in mutation.files:
        path = bundle.folder / name
        if name in bundle.files:
            path.write_bytes(bundle.files[name])
        else:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def check(bundle: Evidence, count: int) -> Counter[str]:
    """Return how many mutations of each name were found, all of them or fail."""
    found: Counter[str] = Counter()
    mutations = Mutator(bundle, random.Random(SEED)).mutations()
    for number, mutation in enumerate(islice(mutations, count)):
        if all(bundle.files.get(name) == data for name, data in mutation.files.items()):
            continue
        with applied(bundle, mutation) as folder:
            report = verify.check(folder, bundle.key.public.hex, mutation.kept)

        assert not report["ok"], (number, mutation.name, mutation.files)
        assert report["kind"] in mutation.expected, (number, mutation.name, report)
        found[mutation.name] += 1
    return found


def test_a_whole_bundle_verifies(bundle: Evidence) -> None:
    report = verify.check(bundle.folder, bundle.key.public.hex, bundle.heads[0])

    assert report["ok"], report
    assert report["approved_by"] == ["alice", "bob"]


def test_a_slice_of_the_mutations_is_found(bundle: Evidence) -> None:
    found = check(bundle, SLICE)

    assert sum(found.values()) > SLICE * 0.95
    assert contents(bundle.folder) == bundle.files


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_all_mutations_are_found(bundle: Evidence) -> None:
    found = check(bundle, ALL)
    for name, count in sorted(found.items()):
        print(f"{name:24} {count}")  # noqa: T201  the figure that docs/proof.md records

    assert sum(found.values()) >= 5_000
