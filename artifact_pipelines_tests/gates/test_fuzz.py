"""Files that are mutated at random are judged: nothing crashes, runs, or takes memory for it."""

import io
import pickle
import random
import resource
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.domain.gate import FORMATS
from artifact_pipelines.gates.safety import inspect, safety_finding
from artifact_pipelines_tests.gates import test_pickles, test_safety
from artifact_pipelines_tests.gates.test_pickles import FORMS, TARGETS, by_global, watch
from artifact_pipelines_tests.gates.test_safety import tensor, tensors, zipped

MEGABYTES = 250
SEEDS: list[bytes] = [
    *(data for _, data in test_safety.BENIGN.values()),
    *test_safety.WRONG_FILES.values(),
    *test_safety.WRONG_TENSORS.values(),
    *test_pickles.CRAFTED.values(),
    *(form(*TARGETS[0]) for form in FORMS),
    *(
        pickle.dumps(value, protocol)
        for value in test_pickles.BENIGN.values()
        for protocol in (0, 2, 4)
    ),
]
# Larger ones take the time of many small ones.
SMALL = [data for data in SEEDS if len(data) <= 50_000]


@pytest.fixture(autouse=True, scope="module")
def _read_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the readers' libraries imported: that runs code, and none of any file's."""
    path = tmp_path_factory.mktemp("warm") / "file"
    for _, data in test_safety.BENIGN.values():
        path.write_bytes(data)
        inspect(path)


def mutated(generator: random.Random) -> bytes:
    """Return a file of the corpus with some of it changed, cut, doubled or taken from another."""
    data = bytearray(generator.choice(SMALL))
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(data) + 1)
        match generator.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << generator.randrange(8)
            case 1 if data:
                data[at % len(data)] = generator.choice([0, 1, 0x2E, 0x7F, 0x80, 0xFF])
            case 2:
                data[at:at] = generator.randbytes(generator.randint(1, 9))
            case 3:
                del data[at : at + generator.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + generator.randint(1, 60)]
            case _:
                other = generator.choice(SMALL)
                data[at:] = other[min(at, len(other)) :]
    return bytes(data)


def fuzz(folder: Path, count: int, seed: int) -> None:
    generator = random.Random(seed)
    path = folder / "model"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        data = mutated(generator)
        path.write_bytes(data)
        with watch() as seen:
            finding = safety_finding(folder, FORMATS)

        assert not seen, data
        assert finding.passed or finding.reasons
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def test_mutated_files_neither_crash_nor_run_nor_swell(tmp_path: Path) -> None:
    fuzz(tmp_path, 1_000, seed=1)


@pytest.mark.deep
@pytest.mark.timeout(3_000)
def test_fifty_thousand_mutated_files_neither_crash_nor_run_nor_swell(tmp_path: Path) -> None:
    fuzz(tmp_path, 50_000, seed=2)


def wrapped(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a payload in every kind of parcel."""
    yield "zip", zipped({"weights.json": payload})
    yield "zip that is deflated", zipped({"a": payload}, zipfile.ZIP_DEFLATED)
    yield "zip in a zip", zipped({"a.npz": zipped({"b.npy": payload})})
    yield (
        "torch archive",
        zipped({"m/data.pkl": payload, "m/version": b"3", "m/byteorder": b"little"}),
    )
    yield (
        "storage of a torch archive",
        zipped({"m/data.pkl": pickle.dumps({}, 2), "m/data/0": payload, "m/extra.pkl": payload}),
    )
    yield "zlib", zlib.compress(payload)
    yield "gzip", zlib.compress(payload, wbits=31)
    yield "behind text", b"# a card\n\0" + payload
    yield "behind safetensors", tensors({"a": tensor(0, 4)}, bytes(4)) + payload
    yield "behind a pickle of nothing", pickle.dumps(None) + payload


@pytest.mark.parametrize("target", TARGETS[:12], ids=".".join)
def test_a_payload_is_refused_in_every_parcel(target: tuple[str, str], tmp_path: Path) -> None:
    for name, data in wrapped(by_global(*target)):
        (tmp_path / "model.safetensors").write_bytes(data)
        with watch() as seen:
            finding = safety_finding(tmp_path, FORMATS)

        assert not finding.passed, name
        assert not seen


def test_the_corpus_is_as_large_as_is_promised() -> None:
    evading = len(FORMS) * len(TARGETS) + len(test_pickles.CRAFTED)
    benign = len(test_safety.BENIGN) + len(test_pickles.BENIGN)

    assert evading >= 100
    assert benign >= 20


def test_a_bomb_of_archives_is_refused_before_it_has_unpacked(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(50_000_000))
    inner = bomb.getvalue()
    outer = zipped({f"{number}.npz": inner for number in range(60)}, zipfile.ZIP_DEFLATED)
    (tmp_path / "model.npz").write_bytes(outer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finding = safety_finding(tmp_path, FORMATS)

    assert len(outer) < 100_000 * 60
    assert not finding.passed
    assert any("unpacks to too much" in reason for reason in finding.reasons)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
