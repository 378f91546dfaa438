"""A model folder is registered whole with what it was made from, or refused in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from artifact_pipelines.cli import app
from artifact_pipelines.errors import SourceError
from artifact_pipelines.integrations.model_folder import import_model_folder
from artifact_pipelines.registry import Registry, open_registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    with open_registry(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "lock").write_bytes(b"x")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(save({"w": np.arange(3.0)}))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: some/base\n---\n# It\n")
    return folder


def test_a_folder_becomes_a_model_with_declared_lineage(registry: Registry, folder: Path) -> None:
    rows = registry.publish_dataset("p", "rows", {"a": b"1"})
    planned = import_model_folder(registry, folder, "p", "hub", dry_run=True)
    nothing = registry.runs("p")
    first = import_model_folder(registry, folder, "p", "hub", datasets=["p/rows@1"])
    second = import_model_folder(registry, folder, "p", "hub", datasets=["p/rows@1"])
    edges = {(one.role, one.parent.id, one.kind) for one in registry.lineage("p/hub@0")}
    facts = registry.find("p/hub").record.facts["huggingface"]

    assert [one.outcome for one in planned] == ["planned"]
    assert nothing == []
    assert [(one.kind, one.outcome) for one in first] == [
        ("checkpoint", "imported"),
        ("model", "imported"),
    ]
    assert {one.outcome for one in second} == {"known"}
    assert ("dataset:rows", rows.id, "declared") in edges
    assert facts == {"model_type": "bert", "licence": "mit", "base_model": "some/base"}
    assert {entry.path for entry in registry.files("p/v1")} == {
        *("README.md", "config.json", "model.safetensors")
    }


@pytest.mark.integrations
@pytest.mark.timeout(180)
def test_a_folder_that_transformers_saves_is_taken_and_loads_again(
    registry: Registry, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(num_hidden_layers=1, vocab_size=16, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "saved")
    import_model_folder(registry, tmp_path / "saved", "p", "hub")
    again = registry.fetch("p/v1", tmp_path / "fetched")
    loaded = transformers.BertModel.from_pretrained(again)

    assert loaded.config.vocab_size == 16
    assert registry.find("p/hub").record.facts["huggingface"]["model_type"] == "bert"


def test_what_is_not_whole_is_refused(registry: Registry, folder: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="lacks model-00001-of-00002"):
        import_model_folder(registry, folder, "p", "hub")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="has no weights"):
        import_model_folder(registry, folder, "p", "hub")
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match="no model folder"):
        import_model_folder(registry, folder, "p", "hub")

    assert registry.projects() == []


@pytest.mark.usefixtures("registry")
def test_the_command_leaves_a_receipt(folder: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    words = ["import", "huggingface", str(folder), "--project", "p", "--run", "hub"]
    said = CliRunner().invoke(app, [*words, "--receipt", str(receipt), "--json"])

    assert said.exit_code == 0
    assert json.loads(said.stdout) == json.loads(receipt.read_text())
    assert json.loads(said.stdout)["items"][1]["reference"] == "p/v1"
