"""The command line on a home of its own."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from artifact_pipelines.cli import app
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.store.pack import object_key


@dataclass
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STORE_URL", "CATALOG_URL", "KEYS", "DAGSTER_HOME"):
        monkeypatch.delenv(f"ARTIFACT_PIPELINES_{name}", raising=False)
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ARTIFACT_PIPELINES_ACTOR", "tester")
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home, actor="tester") as opened:
        yield opened


@pytest.fixture
def command(home: Path) -> Command:
    """Runs a command in the home; nobody is there to answer questions."""

    def run(*words: str, answer: str | None = None) -> Said:
        assert home.parent.is_dir()

        result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


def damage(registry: Registry, home: Path, reference: str) -> None:
    """Flip one stored byte of an artifact."""
    found = registry.find(reference)
    (key, *_) = registry.publication_of(found.id, found.session).keys()
    place = registry.locate([key])[key]
    pack = home / "store" / object_key(place.pack)
    data = bytearray(pack.read_bytes())
    data[place.offset] ^= 1
    pack.write_bytes(bytes(data))
