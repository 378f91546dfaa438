"""An inbox takes what is complete, once, and leaves and reports everything else."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.errors import ConfigurationError, SourceError, StoreError
from artifact_pipelines.registry import Registry
from artifact_pipelines.store.bucket import Bucket
from artifact_pipelines_tests.servers import SeaweedFS

WEIGHTS = save({"w": np.arange(3.0)})
RECORDED = Path(__file__).parent.parent / "integrations" / "recorded"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox" / "p" / "outside"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def archive() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        # Without a time of its own it would be another archive each time.
        opened.writestr(zipfile.ZipInfo("archive/data.pkl"), b"")
    return data.getvalue()


def state(step: int) -> bytes:
    log = [{"loss": 0.5, "step": step, "epoch": 1}]
    return json.dumps({"global_step": step, "epoch": 1.5, "log_history": log}).encode()


def leave(recorded: str, at: Path) -> Path:
    """Leave what a real library wrote."""
    return shutil.copytree(RECORDED / recorded, at)


def parents(registry: Registry, reference: str) -> list[tuple[str, str]]:
    return [
        (edge.parent.reference, edge.kind)
        for edge in registry.lineage(reference)
        if edge.role == "parent" and edge.depth == 1
    ]


def outcomes(registry: Registry, run: Path) -> dict[str, tuple[str, str | None]]:
    found = registry.receive(run.parent.parent)
    return {drop.path.rpartition("/")[2]: (drop.outcome, drop.reference) for drop in found}


def test_every_layout_is_taken_once_and_left_as_it_was(registry: Registry, run: Path) -> None:
    write(run / "checkpoint-500", {"model.safetensors": WEIGHTS, "trainer_state.json": state(500)})
    write(run, {"epoch=1-step=20.ckpt": archive()})
    leave("orbax/10", run / "10")
    leave("orbax/alone_30", run / "alone_30")
    leave("orbax/plain_40", run / "plain_40")
    leave("dcp/step-10", run / "step-45")
    note = json.dumps({"step": 50, "metrics": {"loss": 0.25}}).encode()
    write(run, {"best.safetensors": save({"w": np.ones(2)}), "best.json": note})
    before = sorted((str(file), file.stat().st_mtime_ns) for file in run.rglob("*"))
    first, second = outcomes(registry, run), outcomes(registry, run)

    assert first == {
        "checkpoint-500": ("imported", "p/outside@500"),
        "epoch=1-step=20.ckpt": ("imported", "p/outside@20"),
        "10": ("imported", "p/outside@10"),
        "alone_30": ("imported", "p/outside@30"),
        "plain_40": ("imported", "p/outside@40"),
        "step-45": ("imported", "p/outside@45"),
        "best.safetensors": ("imported", "p/outside@50"),
    }
    assert {name: ("known", reference) for name, (_, reference) in first.items()} == second
    assert registry.find("p/outside@500").metrics == {"loss": 0.5}
    assert registry.find("p/outside@50").metrics == {"loss": 0.25}
    assert registry.find("p/outside@10").metrics == {"loss": 0.5}
    assert {step: parents(registry, f"p/outside@{step}") for step in (10, 20, 500)} == {
        10: [],
        20: [("p/outside@10", "declared")],
        500: [("p/outside@50", "declared")],
    }
    assert sorted((str(file), file.stat().st_mtime_ns) for file in run.rglob("*")) == before


def test_what_is_half_written_waits_until_it_is_whole(registry: Registry, run: Path) -> None:
    write(run / "checkpoint-1", {"trainer_state.json": state(1)})
    write(run / "checkpoint-2", {"trainer_state.json": state(2)[:9], "model.safetensors": WEIGHTS})
    write(run / "checkpoint-3", {"trainer_state.json": state(3), "model.safetensors": WEIGHTS[:-4]})
    index = json.dumps({"weight_map": {"w": "model-1.safetensors"}}).encode()
    write(
        run / "checkpoint-4",
        {"trainer_state.json": state(4), "model.safetensors.index.json": index},
    )
    write(run, {"step=5.ckpt": archive()[:-5], "alone.safetensors": WEIGHTS})
    write(run / "6.orbax-checkpoint-tmp-1", {"_CHECKPOINT_METADATA": b"{}"})
    write(run / "7", {"__0_0.distcp": b"y"})
    (run / "8").mkdir()
    waiting = outcomes(registry, run)
    write(run / "checkpoint-3", {"model.safetensors": WEIGHTS})
    later = outcomes(registry, run)

    assert set(waiting.values()) == {("waiting", None)}
    assert len(waiting) == 9
    assert later.pop("checkpoint-3") == ("imported", "p/outside@3")
    assert set(later.values()) == {("waiting", None)}


def _without(path: str) -> Callable[[Path], None]:
    return lambda drop: (
        shutil.rmtree(drop / path) if (drop / path).is_dir() else _unlink(drop, path)
    )


def _unlink(drop: Path, path: str) -> None:
    (drop / path).unlink()


def _cut(path: str) -> Callable[[Path], None]:
    return lambda drop: _shorten(drop / path)


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _uncommitted(drop: Path) -> None:
    note = drop / "_CHECKPOINT_METADATA"
    note.write_text(json.dumps({**json.loads(note.read_text()), "commit_timestamp_nsecs": None}))


@pytest.mark.parametrize(
    "recorded, harm, said",
    [
        ("orbax/10", _uncommitted, "names no time of commit yet"),
        ("orbax/10", _cut("_CHECKPOINT_METADATA"), "_CHECKPOINT_METADATA is not whole yet"),
        ("orbax/10", _without("default"), "its item 'default' is not there yet"),
        ("orbax/10", _without("default/manifest.ocdbt"), "no default/manifest.ocdbt yet"),
        ("orbax/10", _without("default/d"), "nothing is in default/d yet"),
        ("orbax/10", _cut("default/_METADATA"), "default/_METADATA is not whole yet"),
        ("orbax/plain_40", _without("b.x"), "its array b.x is not there yet"),
        ("dcp/step-10", _without(".metadata"), "no .metadata yet, which is written last"),
        ("dcp/step-10", _cut(".metadata"), ".metadata is not whole yet"),
        (
            "dcp/step-10",
            _without("__0_0.distcp"),
            "__0_0.distcp, which its .metadata cites, is not",
        ),
        ("dcp/step-10", _cut("__0_0.distcp"), "cites, is not whole yet"),
    ],
)
def test_a_copy_that_is_on_its_way_waits(
    registry: Registry, run: Path, recorded: str, harm: Callable[[Path], None], said: str
) -> None:
    harm(leave(recorded, run / "step-10"))
    (drop,) = registry.receive(run.parent.parent)

    assert drop.outcome == "waiting"
    assert said in drop.said
    assert registry.projects() == []


def test_a_training_state_is_there_whole_or_not_at_all(registry: Registry, run: Path) -> None:
    model = {"model.safetensors": WEIGHTS, "trainer_state.json": state(1)}
    write(run / "checkpoint-1", {**model, "scheduler.pt": archive(), "rng_state.pth": archive()})
    (half,) = registry.receive(run.parent.parent)
    write(run / "checkpoint-1", {"_SUCCESS": b""})
    (marked,) = registry.receive(run.parent.parent)

    assert (half.outcome, marked.outcome) == ("waiting", "imported")
    assert "its optimizer state is not there yet" in half.said
    assert "_SUCCESS" not in {file.path for file in registry.files("p/outside@1")}


def test_a_step_that_comes_late_is_the_parent_of_the_one_that_came_early(
    registry: Registry, run: Path
) -> None:
    for step in (30, 10, 20):
        write(run, {f"step={step}.safetensors": save({"w": np.full(2, step)})})
        write(run, {f"step={step}.json": json.dumps({"step": step}).encode()})
        registry.receive(run.parent.parent)

    assert parents(registry, "p/outside@10") == []
    assert parents(registry, "p/outside@20") == [("p/outside@10", "declared")]
    assert parents(registry, "p/outside@30") == [("p/outside@10", "declared")]


def test_a_look_that_is_out_of_time_leaves_the_rest_to_the_next(
    registry: Registry, run: Path
) -> None:
    leave("dcp/step-10", run / "step-10")
    (late,) = registry.receive(run.parent.parent, seconds=-1)
    (taken,) = registry.receive(run.parent.parent, seconds=60)

    assert (late.outcome, taken.outcome) == ("waiting", "imported")
    assert "is taken by the next look" in late.said


def test_what_is_malformed_is_refused_by_name(registry: Registry, run: Path) -> None:
    write(run / "checkpoint-9", {"trainer_state.json": state(8), "model.safetensors": WEIGHTS})
    write(run, {"last.ckpt": archive(), "notes.txt": b"hello"})
    write(run, {"x.safetensors": WEIGHTS, "x.json": b'{"step": "ten"}'})
    write(run.parent / "v3", {"step=1.ckpt": archive()})
    found = registry.receive(run.parent.parent)

    assert {drop.outcome for drop in found} == {"refused"}
    assert len(found) == 5
    assert any("its name says step 9, and its state 8" in drop.said for drop in found)
    assert any("reads as a version" in drop.said for drop in found)
    assert registry.runs("p") == []


def test_a_renamed_drop_is_what_it_was(registry: Registry, run: Path) -> None:
    write(run, {"step=1.ckpt": archive()})
    registry.receive(run.parent.parent)
    write(run, {"step=2.ckpt": archive()})

    assert outcomes(registry, run)["step=2.ckpt"] == ("known", "p/outside@1")
    assert len(registry.checkpoints("p")) == 1


def test_other_content_at_a_step_and_runs_of_our_own_are_refused(
    registry: Registry, run: Path
) -> None:
    registry.start_run("p", "own", params={"lr": 1})
    write(run.parent / "own", {"step=1.ckpt": archive()})
    write(run, {"step=1.ckpt": archive()})
    leave("dcp/step-10", run / "1")
    found = {drop.path: drop for drop in registry.receive(run.parent.parent)}

    assert found["p/outside/1"].outcome == "imported"
    assert "registered with other content" in found["p/outside/step=1.ckpt"].said
    assert found["p/own/step=1.ckpt"].outcome == "refused"


def test_an_inbox_must_be_there(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="make it first"):
        registry.receive(tmp_path / "nowhere")


def test_what_a_note_says_it_was_made_from_is_declared(registry: Registry, run: Path) -> None:
    rows = registry.publish_dataset("p", "rows", {"a": b"1"})
    write(run, {"step=1.ckpt": archive()})
    registry.receive(run.parent.parent)
    note = {"step": 2, "parent": "p/outside@1", "datasets": ["p/rows@1"]}
    write(run, {"b.safetensors": WEIGHTS, "b.json": json.dumps(note).encode()})
    taken = outcomes(registry, run)["b.safetensors"]
    edges = {
        (edge.role, edge.parent.reference, edge.kind)
        for edge in registry.lineage("p/outside@2")
        if edge.depth == 1
    }

    assert taken == ("imported", "p/outside@2")
    assert ("parent", "p/outside@1", "declared") in edges
    assert ("dataset:rows", rows.reference, "declared") in edges
    assert [one.reference for one in registry.search("kind = checkpoint and dataset = 'p/rows@1'")]


def test_a_parent_that_is_not_here_is_refused_before_anything_is_registered(
    registry: Registry, run: Path
) -> None:
    registry.publish_dataset("p", "rows", {"a": b"1"})
    for name, note in {
        "a": {"step": 1, "parent": "p/elsewhere@4"},
        "b": {"step": 2, "datasets": ["p/rows@9"]},
        "c": {"step": 3, "parent": "p/rows@1"},
        "d": {"step": 4, "parent": 7},
        "e": {"step": 5, "datasets": "p/rows@1"},
    }.items():
        files = {f"{name}.safetensors": save({name: np.ones(1)})}
        write(run, files | {f"{name}.json": json.dumps(note).encode()})
    found = registry.receive(run.parent.parent)

    assert [drop.outcome for drop in found] == ["refused"] * 5
    assert "its parent 'p/rows@1' is a dataset" in found[2].said
    assert "must be a reference" in found[3].said
    assert registry.runs("p") == []


# In a bucket


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, s3_url: str) -> Callable[[str, Path | bytes], None]:
    """Upload a file, or a folder, below the prefix of the inbox."""
    client, prefix = seaweedfs.client(), s3_url.rpartition("/")[2]

    def upload(key: str, source: Path | bytes) -> None:
        if isinstance(source, bytes):
            client.put_object(Bucket="store", Key=f"{prefix}/{key}", Body=source)
            return
        for file in sorted(source.rglob("*")):
            if file.is_file():
                upload(f"{key}/{file.relative_to(source).as_posix()}", file.read_bytes())

    return upload


Upload = Callable[[str, Path | bytes], None]


def test_a_bucket_is_an_inbox(registry: Registry, s3_url: str, bucket: Upload) -> None:
    bucket("p/outside/step-10", RECORDED / "dcp" / "step-10")
    bucket("p/outside/step-20/.metadata", (RECORDED / "dcp/step-20/.metadata").read_bytes())
    bucket("p/outside/epoch=0-step=30.ckpt", archive())
    bucket("p/outside/best.safetensors", save({"w": np.ones(2)}))
    bucket("p/outside/notes.txt", b"hello")
    first = {drop.path.rpartition("/")[2]: drop for drop in registry.receive(s3_url)}
    bucket("p/outside/step-20/__0_0.distcp", (RECORDED / "dcp/step-20/__0_0.distcp").read_bytes())
    bucket("p/outside/best.json", b'{"step": 40}')
    second = {drop.path.rpartition("/")[2]: drop.outcome for drop in registry.receive(s3_url)}

    assert {name: drop.outcome for name, drop in first.items()} == {
        "step-10": "imported",
        "step-20": "waiting",
        "epoch=0-step=30.ckpt": "imported",
        "best.safetensors": "waiting",
        "notes.txt": "refused",
    }
    assert "__0_0.distcp, which its .metadata cites, is not there yet" in first["step-20"].said
    assert second == {
        "step-10": "known",
        "step-20": "imported",
        "epoch=0-step=30.ckpt": "known",
        "best.safetensors": "imported",
        "notes.txt": "refused",
    }
    assert [item.step for item in registry.checkpoints("p")] == [10, 20, 30, 40]
    assert parents(registry, "p/outside@20") == [("p/outside@10", "declared")]
    assert (
        registry.read("p/outside@10", "__0_0.distcp")
        == (RECORDED / "dcp/step-10/__0_0.distcp").read_bytes()
    )


def test_what_cannot_say_that_it_is_whole_rests_in_a_bucket_or_is_marked(
    registry: Registry, s3_url: str, bucket: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket("p/outside/10", RECORDED / "orbax" / "10")
    (resting,) = registry.receive(s3_url)
    bucket("p/outside/10/_SUCCESS", b"")
    (marked,) = registry.receive(s3_url)
    bucket("p/outside/40", RECORDED / "orbax" / "plain_40")
    monkeypatch.setattr("artifact_pipelines.registry.inbox.REST", 0.0)
    rested = [drop.outcome for drop in registry.receive(s3_url)]

    assert (resting.outcome, marked.outcome) == ("waiting", "imported")
    assert "5 minutes after its newest object, or at once with an empty _SUCCESS" in resting.said
    assert rested == ["known", "imported"]


def test_an_object_that_is_replaced_while_it_is_read_waits(
    registry: Registry, s3_url: str, bucket: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket("p/outside/step=1.ckpt", archive())
    listed = Bucket.listed

    def then_replace(self: Bucket) -> object:
        found = listed(self)
        bucket("p/outside/step=1.ckpt", archive() + b"more")
        return found

    monkeypatch.setattr(Bucket, "listed", then_replace)
    (drop,) = registry.receive(s3_url)

    assert drop.outcome == "waiting"
    assert "it changed while it was read" in drop.said
    assert registry.checkpoints("p") == []


def test_a_key_that_climbs_out_of_its_folder_writes_nothing(
    registry: Registry, s3_url: str, bucket: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket("p/outside/step-10", RECORDED / "dcp" / "step-10")
    listed = Bucket.listed

    def climbing(self: Bucket) -> object:
        # Real servers differ in whether they take such keys.
        return [
            type(one)(one.key.replace("__0_0", "../../x"), one.size, one.etag, one.age)
            for one in listed(self)
        ]

    monkeypatch.setattr(Bucket, "listed", climbing)
    (drop,) = registry.receive(s3_url)

    assert drop.outcome == "refused"
    assert "'../../x.distcp'" in drop.said


@pytest.mark.usefixtures("s3_url")
def test_a_bucket_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(
        StoreError, match=r"no bucket 'nowhere' .* correct ARTIFACT_PIPELINES_INBOX"
    ):
        registry.receive("s3://nowhere/inbox")
    with pytest.raises(ConfigurationError, match="the inbox URL"):
        registry.receive("s3:/nowhere")
