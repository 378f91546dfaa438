"""An inbox takes what is complete, once, and leaves and reports everything else."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.errors import SourceError
from artifact_pipelines.registry import Registry

WEIGHTS = save({"w": np.arange(3.0)})


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


def outcomes(registry: Registry, run: Path) -> dict[str, tuple[str, str | None]]:
    found = registry.receive(run.parent.parent)
    return {drop.path.rpartition("/")[2]: (drop.outcome, drop.reference) for drop in found}


def test_every_layout_is_taken_once_and_left_as_it_was(registry: Registry, run: Path) -> None:
    write(run / "checkpoint-500", {"model.safetensors": WEIGHTS, "trainer_state.json": state(500)})
    write(run, {"epoch=1-step=20.ckpt": archive()})
    write(run / "30", {"_CHECKPOINT_METADATA": b"{}", "d/manifest.ocdbt": b"x"})
    write(run / "step-40", {".metadata": b"x", "__0_0.distcp": b"y"})
    note = json.dumps({"step": 50, "metrics": {"loss": 0.25}}).encode()
    write(run, {"best.safetensors": save({"w": np.ones(2)}), "best.json": note})
    before = sorted((str(file), file.stat().st_mtime_ns) for file in run.rglob("*"))
    first, second = outcomes(registry, run), outcomes(registry, run)

    assert first == {
        "checkpoint-500": ("imported", "p/outside@500"),
        "epoch=1-step=20.ckpt": ("imported", "p/outside@20"),
        "30": ("imported", "p/outside@30"),
        "step-40": ("imported", "p/outside@40"),
        "best.safetensors": ("imported", "p/outside@50"),
    }
    assert {name: ("known", reference) for name, (_, reference) in first.items()} == second
    assert registry.find("p/outside@500").metrics == {"loss": 0.5}
    assert registry.find("p/outside@50").metrics == {"loss": 0.25}
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
    waiting = outcomes(registry, run)
    write(run / "checkpoint-3", {"model.safetensors": WEIGHTS})
    later = outcomes(registry, run)

    assert set(waiting.values()) == {("waiting", None)}
    assert len(waiting) == 8
    assert later.pop("checkpoint-3") == ("imported", "p/outside@3")
    assert set(later.values()) == {("waiting", None)}


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
    write(run / "1", {".metadata": b"x", "__0_0.distcp": b"y"})
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
