"""Import of a model folder as Hugging Face's libraries save it; the folder is only read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ConflictError, SourceError
from artifact_pipelines.integrations.mlflow_store import Item
from artifact_pipelines.registry import Registry
from artifact_pipelines.sdk.files import files_of

_IMPORTED_BY = "huggingface"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
_NOT_OF_THE_MODEL = (".cache/", ".git/")


def import_model_folder(
    registry: Registry,
    folder: Path,
    project: str,
    name: str,
    *,
    base: str | None = None,
    datasets: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Item]:
    """Register a folder as a run, a checkpoint and a model; what it was made from is declared.

    Raises:
        SourceError: It is no whole model folder.
        ConflictError: The run was trained here.
    """
    if not folder.is_dir():
        raise SourceError(f"{str(folder)!r} is no folder; download the model first.")
    files = {
        path: file
        for path, file in files_of(folder).items()
        if not path.startswith(_NOT_OF_THE_MODEL)
    }
    config = _config(folder, files)
    card = _card(folder)
    parents = [] if base is None else [("parent", registry.find(base), Kind.CHECKPOINT)]
    parents += [("dataset", registry.find(one), Kind.DATASET) for one in datasets]
    for role, parent, kind in parents:
        if parent.kind not in {kind, Kind.MODEL if role == "parent" else kind}:
            raise SourceError(f"{parent.reference} cannot be the {role} of a model.")
    source = str(folder)
    if dry_run:
        said = f"{len(files)} files, {len(parents)} declared edges."
        return [Item("model", source, "planned", f"{project}/{name}@0", said)]
    known = {one.name for one in registry.checkpoints(project)}
    run = registry.start_run(
        project,
        name,
        code={"imported_by": _IMPORTED_BY},
        facts={"huggingface": {"model_type": config.get("model_type"), **card}},
    )
    if run.record.code.get("imported_by") != _IMPORTED_BY:
        raise ConflictError(f"the run {run.reference} was not imported; choose another name.")
    saved = registry.publish_checkpoint(run, files, step=0, facts={"layout": _IMPORTED_BY})
    for role, parent, _ in parents:
        registry.declare(
            saved.id, parent.id, f"dataset:{parent.name}" if role == "dataset" else role
        )
    registry.finish_run(run, "finished")
    model = registry.publish_model(saved)
    outcome = "known" if name in known else "imported"
    return [
        Item("checkpoint", source, outcome, saved.reference, f"{len(files)} files."),
        Item("model", source, outcome, model.reference, f"from {saved.reference}."),
    ]


def _config(folder: Path, files: dict[str, Path | bytes]) -> dict[str, Any]:
    """Return what the folder says of its model, once its weights are known to be whole."""
    name = "adapter_config.json" if "adapter_config.json" in files else "config.json"
    if name not in files:
        raise SourceError(f"{str(folder)!r} has no config.json: it is no model folder.")
    index = folder / "model.safetensors.index.json"
    try:
        config = json.loads((folder / name).read_bytes())
        shards = (
            set(json.loads(index.read_bytes())["weight_map"].values()) if index.exists() else None
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"what {str(folder)!r} says of its model is not whole: {error}."
        ) from error
    missing = sorted(shards - files.keys()) if shards else []
    if missing:
        raise SourceError(f"{str(folder)!r} lacks {', '.join(missing)}; download them as well.")
    if not shards and not set(_WEIGHTS) & files.keys():
        raise SourceError(f"{str(folder)!r} has no weights; download them as well.")
    return config if isinstance(config, dict) else {}


def _card(folder: Path) -> dict[str, Any]:
    """Return the licence, base model and datasets that the model card names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():  # noqa: PLR2004 (before, head, body)
        return {}
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    names = {"license": "licence", "base_model": "base_model", "datasets": "datasets"}
    return {names[key]: head[key] for key in names if isinstance(head, dict) and head.get(key)}
