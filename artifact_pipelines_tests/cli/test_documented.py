"""The shapes that `docs/command-line.md` promises are the shapes that commands print."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import artifact_pipelines
from artifact_pipelines import Run, start_run
from artifact_pipelines.domain.schema import Layout
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import promoted
from artifact_pipelines_tests.cli.conftest import Command, damage
from artifact_pipelines_tests.test_mlflow_store import unpacked

PAGE = Path(artifact_pipelines.__file__).parent.parent / "docs" / "command-line.md"
ARTIFACT = {
    *("reference", "artifact_id", "kind", "project", "name", "step", "version"),
    *("content_digest", "size_bytes", "published", "state", "recalled", "tier", "metrics"),
}
DETAILS = ARTIFACT | {
    *("leaf", "attempt", "run_id", "params", "code", "facts", "inputs", "files"),
}
COMMANDS = {
    "run list": [],
    "run show": ["digits/a"],
    "run start": ["digits", "--set", "lr=0.1,0.01", "--name", "b"],
    "checkpoint list": [],
    "checkpoint show": ["digits/a@2"],
    "checkpoint verify": ["digits/a@2"],
    "dataset show": ["digits/images@1"],
    "dataset list": [],
    "model list": [],
    "model show": ["digits/v1"],
    "model evaluate": ["digits/a"],
    "model promote": ["digits/v1", "--stage", "production"],
    "model history": ["digits"],
    "schema list": [],
    "schema show": ["digits", "mlp"],
    "lineage show": ["digits/v1"],
    "inbox scan": ["inbox"],
    "import mlflow": ["store/mlflow.db", "--project", "digits"],
    "import huggingface": ["hub", "--project", "digits", "--run", "hub"],
    "checkpoint prove-resume": ["digits/mine@1", "--by", f"{__name__}:fit"],
    "export": ["digits/v1", "--to", "out"],
    "run reproduce": ["digits/mine", "--to", "out"],
    "run compare": ["digits/a", "digits/mine"],
    "lineage completeness": ["digits/v1"],
    "lineage declare": ["digits/a@1", "digits/images@1", "--as", "looked_at"],
    "checkpoint diff": ["digits/a@1", "digits/a@2"],
    "search": ["kind = checkpoint"],
    "retention plan": ["digits"],
    "retention due": [],
    "hold place": ["digits/a@2", "--name", "case", "--reason", "asked for"],
    "hold list": [],
    "hold lift": ["digits/a@2", "--name", "case", "--reason", "closed"],
    "archive run": ["digits/a@1"],
    "restore run": ["digits/a@1"],
    "restore drill": ["--sample", "2"],
    "prune run": ["--yes"],
    "storage report": [],
    "storage compact": [],
    "storage scrub": [],
    "storage replicate": ["--to", "memory://documented"],
    "storage strays": [],
    "scope create": ["other"],
    "audit log": [],
    "audit verify": [],
    "key create": ["bob"],
    "key list": [],
    "catalog rebuild": ["--yes"],
    "dagster sync": [],
    "doctor": [],
}


def fit(run: Run) -> None:
    """Train without anything that a step could depend on but the one before."""
    begin = 0 if run.resume is None else run.resume.step
    for step in range(begin + 1, 3):
        run.checkpoint({"w": np.full(2, step)}, step=step)


def promised(command: str) -> tuple[set[str], set[str]]:
    """Return the fields of a command's object, and of the rows in its list."""
    for line in PAGE.read_text().splitlines():
        names, _, fields = line.strip("| ").partition(" | ")
        if f"`{command}`" not in names or not line.startswith("|"):
            continue
        top, _, row = re.sub(r"\([^)]*\)", "", fields).partition(":")
        return expand(top), expand(row)
    raise AssertionError(command)


def expand(text: str) -> set[str]:
    found = {name.removesuffix("[]") for name in re.findall(r"`([^`]+)`", text)}
    if re.search(r"\bartifact\b", text):
        found |= ARTIFACT
    return found | DETAILS if "details" in text else found


@pytest.mark.parametrize("command_", COMMANDS)
def test_a_command_prints_the_fields_that_are_documented(
    command: Command,
    registry: Registry,
    home: Path,
    command_: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home.parent)
    promoted(registry, "a")
    if command_ == "inbox scan":
        (home.parent / "inbox/p/r").mkdir(parents=True)
        (home.parent / "inbox/p/r/step=1.ckpt").write_bytes(b"half an archive")
    if command_ in {"run reproduce", "run compare", "checkpoint prove-resume"}:
        with start_run("digits", "mine") as run:
            fit(run)
    if command_ == "import mlflow":
        unpacked(home.parent / "store")
    if command_ == "import huggingface":
        (home.parent / "hub").mkdir()
        (home.parent / "hub" / "config.json").write_text('{"model_type": "mlp"}')
        (home.parent / "hub" / "model.safetensors").write_bytes(save({"w": np.ones(2)}))
    if command_ == "storage strays":
        registry.store.put_object(b"cited by nothing")
    if command_ == "storage scrub":
        damage(registry, home, "digits/a@1")
    if command_.startswith("schema"):
        registry.register_schema("digits", "mlp", Layout.of({"files": ["model.safetensors"]}))
    if command_ in {"hold list", "hold lift"}:
        registry.place_hold("digits/a@2", "case", "asked for")
    said = command(*command_.split(), *COMMANDS[command_], "--json")
    top, row = promised(command_)

    assert said.code == (command_ == "storage scrub")
    assert set(said.json()) == top
    if row:
        lists = [value for value in said.json().values() if isinstance(value, list)]
        rows = next(value for value in lists if not value or isinstance(value[0], dict))
        assert [set(item) for item in rows] == [row] * len(rows) != []


def test_the_words_of_the_page_define_themselves() -> None:
    text = " ".join(PAGE.read_text().split())

    for word, fields in (("artifact", ARTIFACT), ("details", DETAILS - ARTIFACT)):
        paragraph = text[text.index(f"**{word}**") :]
        assert fields <= set(re.findall(r"`([a-z_0-9]+)`", paragraph[:700])), word
