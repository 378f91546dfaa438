"""A training goes on while its checkpoints are registered, and nothing goes missing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from artifact_pipelines import Run, start_run
from artifact_pipelines.errors import ConflictError, StoreError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.sdk.files import save_tensors
from artifact_pipelines.sdk.saving import Buffers, Publisher, Saved
from artifact_pipelines.sdk.state import joined, read_state, split, write_state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds publishing up until it is set."""
    opened = threading.Event()
    publish: Callable[..., Artifact] = Registry.publish_checkpoint

    def slow(self: Registry, *args: Any, **kwargs: Any) -> Artifact:
        assert opened.wait(30)

        return publish(self, *args, **kwargs)

    monkeypatch.setattr(Registry, "publish_checkpoint", slow)
    return opened


def test_a_checkpoint_is_as_the_weights_were_when_it_was_handed_over(
    registry: Registry, gate: threading.Event
) -> None:
    weights = np.zeros(4)
    with start_run("p", "r") as run:
        first = run.checkpoint({"w": weights}, step=1, optimizer={"m": weights})
        assert not first.done
        weights += 1
        run.checkpoint({"w": weights}, step=2, optimizer={"m": weights})
        weights += 1
        gate.set()

    for step in (1, 2):
        for name, key in (("model", "w"), ("optimizer", "m")):
            found = load(registry.read(f"p/r@{step}", f"{name}.safetensors"))
            assert found[key].tolist() == [step - 1.0] * 4
    assert [item.step for item in registry.checkpoints("p", "r")] == [1, 2]


def test_what_waits_is_bounded(home: Path, gate: threading.Event) -> None:
    assert not home.exists()

    size = 8 * 1000
    with start_run("p", "r", pending_bytes=2 * size) as run:
        run.checkpoint({"w": np.zeros(1000)}, step=1)
        run.checkpoint({"w": np.zeros(1000)}, step=2)
        third = threading.Thread(
            target=lambda: run.checkpoint({"w": np.zeros(1000)}, step=3), daemon=True
        )
        third.start()
        third.join(0.2)
        waited = third.is_alive()
        gate.set()
        third.join(30)

        assert waited
        assert not third.is_alive()
        assert [item.step for item in run.checkpoints] == [1, 2, 3]


def test_one_that_is_larger_than_the_bound_waits_alone(home: Path) -> None:
    with start_run("p", "r", pending_bytes=1, home=home) as run:
        for step in range(3):
            run.checkpoint({"w": np.full(100, step)}, step=step)

        assert len(run.checkpoints) == 3


def save_twice(run: Run, *, patient: bool) -> None:
    """Save other content at a step that is taken; then, if patient, see it fail and go on."""
    run.checkpoint({"w": np.zeros(1)}, step=1)
    failed = run.checkpoint({"w": np.ones(1)}, step=1)
    if patient:
        while not failed.done:
            threading.Event().wait(0.01)
        run.checkpoint({"w": np.ones(1)}, step=2)
        pytest.fail("the call should have raised")


def test_an_error_is_raised_by_the_next_call(home: Path) -> None:
    with (
        pytest.raises(ConflictError, match=r"p/r@1 is registered with other content"),
        start_run("p", "r", home=home) as run,
    ):
        save_twice(run, patient=True)


def test_an_error_is_raised_at_the_end_and_the_run_has_failed(registry: Registry) -> None:
    with pytest.raises(ConflictError, match="other content"), start_run("p", "r") as run:
        save_twice(run, patient=False)

    view = registry.run("p", "r")
    assert (view.state, len(view.checkpoints)) == ("failed", 1)


def test_an_error_that_somebody_was_told_is_not_raised_again(registry: Registry) -> None:
    with start_run("p", "r") as run:
        run.checkpoint({"w": np.zeros(1)}, step=1)
        with pytest.raises(ConflictError):
            run.checkpoint({"w": np.ones(1)}, step=1).wait()

    assert registry.run("p", "r").state == "finished"


def test_later_failures_are_noted_on_the_first() -> None:
    publisher = Publisher()

    def fail(number: int) -> Artifact:
        raise StoreError(f"disk {number} is full")

    for number in range(2):
        publisher.hand_over(Saved(f"p/r@{number}", number), partial(fail, number), 0)
    with pytest.raises(StoreError, match="disk 0") as caught:
        publisher.drain()

    assert caught.value.__notes__ == ["A later checkpoint failed as well: disk 1 is full"]
    publisher.close()


def test_a_trainer_that_raises_keeps_what_it_had_handed_over(
    registry: Registry, gate: threading.Event
) -> None:
    def train(run: Run) -> None:
        run.checkpoint({"w": np.zeros(3)}, step=1)
        run.checkpoint({"w": np.ones(3)}, step=2)
        gate.set()
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"), start_run("p", "r") as run:
        train(run)

    view = registry.run("p", "r")
    assert (view.state, [item.step for item in view.checkpoints]) == ("failed", [1, 2])


def test_files_that_are_passed_by_path_may_be_removed_at_once(
    registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with start_run("p", "r") as run:
        for step in range(3):
            (folder / "weights.bin").write_bytes(b"%d" % step)
            run.checkpoint(folder, step=step)
            (folder / "weights.bin").unlink()

    assert [registry.read(f"p/r@{step}", "weights.bin") for step in range(3)] == [b"0", b"1", b"2"]


KILLED = """
import os, signal, sys, threading
import numpy as np
from artifact_pipelines import start_run

with start_run("p", "r") as run:
    for step in range(1, 200):
        run.checkpoint({"w": np.full(200_000, step, "f4")}, step=step,
                       optimizer={"m": np.full(200_000, -step, "f4")})
        if step == 3:
            threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
"""


@pytest.mark.parametrize("delay", ["0.0", "0.013", "0.03"])
def test_a_dying_process_leaves_whole_checkpoints_or_none(
    registry: Registry, home: Path, delay: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, delay],
        env={**os.environ, "ARTIFACT_PIPELINES_HOME": str(home)},
        check=False,
    )
    found = registry.checkpoints("p", "r")

    assert done.returncode == -signal.SIGKILL
    assert [item.step for item in found] == list(range(1, len(found) + 1))
    for item in found:
        weights = load(registry.read(item.id, "model.safetensors"))["w"]
        moments = load(registry.read(item.id, "optimizer.safetensors"))["m"]
        assert set(weights) == {item.step}
        assert set(moments) == {-(item.step or 0)}
    with start_run("p", "r", home=home) as run:
        assert (run.resume is None) == (not found)
        run.checkpoint({"w": np.zeros(1)}, step=999)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.one_of(
            *(
                arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, max_side=3))
                for kind in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "?", "c8")
            )
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=50, deadline=None)
def test_the_bytes_are_those_that_safetensors_writes(tensors: dict[str, Any]) -> None:
    plain = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()
    }

    assert save_tensors("it", tensors) == save(plain)


def test_a_nested_state_comes_back_with_its_arrays(tmp_path: Path) -> None:
    state = {
        "state": {0: {"step": np.array(3.0), "exp_avg": np.arange(3.0)}, 1: {"step": None}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}],
        "a.b": np.ones(1),
        "a": {"b": np.zeros(1)},
    }
    flat, form = split(state)
    (tmp_path / "state.json").write_bytes(write_state("it", {"optimizer": form}))
    again = joined(read_state(tmp_path / "state.json", "it")["optimizer"], flat)

    assert len(flat) == 4
    assert pformat(again) == pformat(state)


def test_memory_comes_back_once_nothing_reads_it() -> None:
    buffers = Buffers()
    first = buffers.take(1000)
    at = first.ctypes.data
    view = first.data[10:20]
    first[:] = 1
    del first
    while_read = buffers.take(1000)
    while_read[:] = 2
    kept = bytes(view)
    elsewhere = while_read.ctypes.data
    del view
    again = buffers.take(900).ctypes.data
    small = buffers.take(100).size
    buffers.close()

    assert elsewhere != at
    assert kept == b"\1" * 10
    assert again == at
    assert small == 100


def test_checkpoints_in_memory_that_was_used_before_hold_their_own_weights(
    registry: Registry,
) -> None:
    with start_run("p", "r") as run:
        for step in range(4):
            weights = {"w": np.full(50_000 - 7 * step, step, np.float32)}
            run.checkpoint(weights, step=step, optimizer={"m": weights["w"] + 1}).wait()
    found = [registry.find(f"p/r@{step}") for step in range(4)]

    for step, one in enumerate(found):
        held = load(registry.read(one.id, "model.safetensors"))["w"]
        assert held.tolist() == [step] * (50_000 - 7 * step)


def test_memory_is_kept_up_to_what_may_wait() -> None:
    buffers = Buffers(limit=2_500)
    taken = [buffers.take(1_000) for _ in range(3)]
    del taken
    several = [one.size for one in buffers._spares]
    buffers.take(9_000)
    one_large = [one.size for one in buffers._spares]
    buffers.close()

    assert several == [1_000, 1_000]
    assert one_large == [9_000]
    assert buffers._spares == []
