"""Schemas are versions that follow each other, and a gate holds models to one of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.schema import Layout, Mode
from artifact_pipelines.errors import PolicyError, SchemaRefusedError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines_tests.building import PROJECT

MLP = Layout.of({"tensors": {"w": {"dtype": "F32", "shape": ["n", 4]}}})
WIDER = Layout.of({"tensors": {"w": {"dtype": ["F32", "F16"], "shape": ["n", 4]}}})


def test_versions_are_numbered_and_the_same_twice_is_one(registry: Registry) -> None:
    first = registry.register_schema(PROJECT, "mlp", MLP)
    again = registry.register_schema(PROJECT, "mlp", MLP)
    second = registry.register_schema(PROJECT, "mlp", WIDER, Mode.BACKWARD)

    assert first == again
    assert [one.reference for one in registry.schemas(PROJECT)] == ["mlp@1", "mlp@2"]
    assert registry.schema(PROJECT, "mlp") == second
    assert registry.layout(registry.schema(PROJECT, "mlp@1")) == MLP
    assert (first.mode, second.mode) == (Mode.FULL, Mode.BACKWARD)


def test_a_version_that_consumers_cannot_read_is_refused(registry: Registry) -> None:
    registry.register_schema(PROJECT, "mlp", MLP)
    with pytest.raises(SchemaRefusedError, match="FORWARD: the tensor w may be F16, not F32"):
        registry.register_schema(PROJECT, "mlp", WIDER)

    assert len(registry.schemas(PROJECT, "mlp")) == 1
    assert registry.check_schema(PROJECT, "mlp", WIDER, Mode.BACKWARD) == ()
    assert registry.check_schema(PROJECT, "mlp", WIDER) != ()


@pytest.mark.parametrize(
    "mode, said",
    [
        (Mode.BACKWARD, ()),
        (
            Mode.BACKWARD_TRANSITIVE,
            ("mlp@1: BACKWARD: the file card.md may be missing",),
        ),
    ],
)
def test_two_steps_that_are_each_allowed_may_break_with_the_first(
    registry: Registry, mode: Mode, said: tuple[str, ...]
) -> None:
    layouts = [Layout.of({"files": files}) for files in (["a"], ["a", "card.md"])]
    registry.register_schema(PROJECT, "mlp", layouts[0])
    registry.register_schema(PROJECT, "mlp", layouts[1], Mode.FORWARD)
    third = Layout.of({"files": ["card.md"]})

    assert registry.check_schema(PROJECT, "mlp", third, mode) == said
    if said:
        with pytest.raises(SchemaRefusedError, match="mlp@1: BACKWARD"):
            registry.register_schema(PROJECT, "mlp", third, mode)
    else:
        assert registry.register_schema(PROJECT, "mlp", third, mode).mode is mode


def test_a_transitive_mode_is_registered_and_stays(registry: Registry) -> None:
    registry.register_schema(PROJECT, "mlp", MLP, Mode.BACKWARD_TRANSITIVE)
    second = registry.register_schema(PROJECT, "mlp", WIDER)

    assert second.mode is Mode.BACKWARD_TRANSITIVE
    with pytest.raises(SchemaRefusedError, match="BACKWARD: the tensor w may be F16"):
        registry.register_schema(PROJECT, "mlp", MLP)


def test_a_mode_stays_until_another_is_named(registry: Registry) -> None:
    registry.register_schema(PROJECT, "mlp", WIDER, Mode.BACKWARD)

    with pytest.raises(SchemaRefusedError, match="BACKWARD: the tensor w may be F16"):
        registry.register_schema(PROJECT, "mlp", MLP)
    assert registry.register_schema(PROJECT, "mlp", MLP, Mode.FORWARD).version == 2


def test_an_unknown_schema_says_how_to_register_it(registry: Registry) -> None:
    with pytest.raises(UnknownArtifactError, match="schema register digits mlp FILE"):
        registry.schema(PROJECT, "mlp@3")


def test_a_rebuilt_catalog_has_the_schemas_and_the_signer_agrees(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register_schema(PROJECT, "mlp", MLP)
    registry.register_schema(PROJECT, "mlp", WIDER, Mode.BACKWARD)
    registry.sign_head()
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)

    assert again.read(facts) == registry.catalog.read(facts)
    assert "layout" in again.read(facts)
    again.close()


def test_of_versions_registered_at_once_each_follows_another(registry: Registry) -> None:
    layouts = [
        Layout.of({"tensors": {"w": {"dtype": [f"F{number}", "F32"], "shape": [4]}}})
        for number in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        made = list(
            pool.map(lambda one: registry.register_schema(PROJECT, "mlp", one, Mode.NONE), layouts)
        )

    assert sorted(one.version for one in made) == list(range(1, 7))
    registry.sign_head()


def judged(registry: Registry, tensors: dict[str, Any], **gate: Any) -> tuple[bool, str]:
    """Return what the schema gate says of a checkpoint."""
    registry.set_policy(PROJECT, Policy.of({"gates": [{"schema": "mlp@1", **gate}]}))
    run = registry.start_run(PROJECT, f"run-{len(registry.runs(PROJECT))}")
    registry.publish_checkpoint(run, {"model.safetensors": save(tensors)}, step=1)
    attempt = registry.evaluate(PROJECT, run.name).attempts[0]
    (verdict,) = [one for one in attempt.verdicts if one.gate == "schema"]
    return verdict.passed, verdict.reasons[0]


def test_a_model_is_held_to_the_version_that_the_policy_names(registry: Registry) -> None:
    half = {"w": np.zeros((3, 4), "f2")}
    passed, said = judged(registry, half)
    assert not passed
    assert said.endswith("register it with: artifact-pipelines schema register digits mlp FILE")
    registry.register_schema(PROJECT, "mlp", MLP)
    registry.register_schema(PROJECT, "mlp", WIDER, Mode.BACKWARD)

    assert judged(registry, {"w": np.zeros((3, 4), "f4")}) == (
        True,
        "its 1 files with 1 tensors are as mlp@1 says",
    )
    assert judged(registry, half) == (False, "the tensor w is F16, not F32")
    assert judged(registry, {"w": np.zeros((3, 5), "f4")})[1] == (
        "the tensor w has 5 in dimension 1, not 4"
    )
    assert judged(registry, {"v": np.zeros((3, 4), "f4")})[1] == "the tensor w is missing"


def declared(reference: str, layout: Layout) -> Policy:
    """Return a policy whose schema gate brings its layout."""
    document = layout.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return Policy.of({"gates": [{"schema": reference, "layout": document}]})


def test_a_policy_registers_the_layouts_that_it_brings(registry: Registry) -> None:
    registry.set_policy(PROJECT, declared("mlp@1", MLP))
    registry.set_policy(PROJECT, declared("mlp@1", MLP))
    first = registry.schemas(PROJECT)
    registry.set_policy(PROJECT, Policy.of({"gates": [{"formats": ["json"]}]}))
    registry.set_policy(PROJECT, declared("mlp@1", MLP))

    assert [(one.reference, one.digest) for one in first] == [("mlp@1", MLP.digest)]
    assert registry.schemas(PROJECT) == first


@pytest.mark.parametrize(
    "reference, layout, said",
    [
        ("mlp@1", WIDER, "a version never changes: write mlp@2"),
        ("mlp@3", WIDER, "the next is mlp@2"),
        ("mlp@2", MLP, "is that of mlp@1; name that one"),
        ("mlp@2", Layout.of({"files": ["other"]}), "was not registered"),
    ],
)
def test_a_layout_that_does_not_follow_stops_the_policy(
    registry: Registry, reference: str, layout: Layout, said: str
) -> None:
    before = registry.set_policy(PROJECT, declared("mlp@1", MLP))

    with pytest.raises((PolicyError, SchemaRefusedError), match=said):
        registry.set_policy(PROJECT, declared(reference, layout))
    assert registry.policy(PROJECT).digest == before
    assert [one.reference for one in registry.schemas(PROJECT)] == ["mlp@1"]
