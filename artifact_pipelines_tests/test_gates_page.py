"""What the page about gates shows is what the project takes."""

import re
from pathlib import Path

import pytest
import yaml

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.schema import Layout, Mode, incompatible

PAGE = Path(__file__).parent.parent / "docs" / "gates.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
DECLARED = [text for kind, text in BLOCKS if kind == "yaml"]


@pytest.mark.parametrize("text", DECLARED, ids=range(len(DECLARED)))
def test_a_declaration_on_the_page_is_taken(text: str) -> None:
    policy = Policy.of(yaml.safe_load(text))

    assert Policy.of(policy.document()) == policy


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "layout"])
def test_a_layout_on_the_page_is_one(text: str) -> None:
    layout = Layout.of(yaml.safe_load(text))

    assert incompatible(layout, layout, Mode.FULL) == ()


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_the_code_on_the_page_is_python(text: str) -> None:
    compile(text, str(PAGE), "exec")
