"""What a trainer can rely on: exact resumption, whole checkpoints, one clear sentence."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

import dagster_pipes
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

import artifact_pipelines
from artifact_pipelines import Run, resolve, start_run
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import (
    ConfigurationError,
    ConflictError,
    SourceError,
    TrainerError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.sweeping import Outline
from artifact_pipelines.sdk import machine, provenance
from artifact_pipelines.sdk.state import read_state, write_state

STEPS = 6
WEIGHTS = {"w": np.arange(4, dtype=np.float32)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home of its own, which the environment names."""
    chosen = tmp_path / "home"
    for name in os.environ:
        if name.startswith("ARTIFACT_PIPELINES_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(chosen))
    return chosen


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    """Yield the home's registry."""
    with open_registry(home) as opened:
        yield opened


def train(run: Run, *, stop_after: int = STEPS) -> None:
    """Train a vector on noise, with momentum, a decaying rate and a generator."""
    generator = np.random.default_rng(7)
    weights = np.zeros(5, dtype=np.float32)
    momentum = np.zeros(5, dtype=np.float32)
    rate, begin = 0.3, 0
    if run.resume is not None:
        begin = run.resume.step
        weights, momentum = run.resume.tensors["w"], run.resume.optimizer["m"]
        rate = run.resume.scheduler["rate"]
        generator.bit_generator.state = run.resume.rng["numpy"]
    for step in range(begin + 1, STEPS + 1):
        if step > stop_after:
            raise RuntimeError("the power went out")
        momentum = np.float32(0.9) * momentum + generator.standard_normal(5, dtype=np.float32)
        weights = weights - np.float32(rate) * momentum
        rate *= 0.97
        run.checkpoint(
            {"w": weights},
            step=step,
            metrics={"norm": np.linalg.norm(weights)},
            optimizer={"m": momentum},
            scheduler={"rate": rate},
            rng={"numpy": generator.bit_generator.state},
        )


def contents(registry: Registry, name: str) -> list[tuple[int | None, str]]:
    return [(saved.step, saved.content) for saved in registry.checkpoints("p", name)]


class TestResuming:
    def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
        self, registry: Registry
    ) -> None:
        with start_run("p", "whole") as run:
            train(run)
        with pytest.raises(RuntimeError, match="power"), start_run("p", "cut") as run:
            train(run, stop_after=3)
        failed = registry.run("p", "cut")
        with start_run("p", "cut") as run:
            resumed = run.resume
            train(run)

        assert (failed.state, failed.reason) == ("failed", "RuntimeError: the power went out")
        assert resumed is not None
        assert (resumed.reference, resumed.step) == ("p/cut@3", 3)
        assert registry.run("p", "cut").state == "finished"
        assert contents(registry, "cut") == contents(registry, "whole")
        assert len(contents(registry, "cut")) == STEPS

    def test_another_run_goes_on_from_a_checkpoint_and_cites_it(self, registry: Registry) -> None:
        with start_run("p", "whole") as run:
            train(run)
        base = registry.find("p/whole@4")
        with start_run("p", "next", resume_from="p/whole@4") as run:
            train(run)

        first, second = registry.checkpoints("p", "next")
        assert run.artifact.record.inputs == (Input("resume", base.id),)
        assert first.record.inputs == (Input("parent", base.id),)
        assert second.record.inputs == (Input("parent", first.id),)
        assert contents(registry, "next") == contents(registry, "whole")[4:]

    def test_its_own_checkpoint_comes_before_the_one_it_was_started_from(
        self, registry: Registry
    ) -> None:
        with start_run("p", "whole") as run:
            train(run)
        with pytest.raises(RuntimeError), start_run("p", "next", resume_from="p/whole@2") as run:
            train(run, stop_after=4)
        with start_run("p", "next", resume_from="p/whole@2") as run:
            assert run.resume is not None
            assert run.resume.reference == "p/next@4"
            train(run)

        assert contents(registry, "next") == contents(registry, "whole")[2:]

    def test_a_step_that_is_saved_again_after_a_resumption_is_the_same_checkpoint(
        self, registry: Registry
    ) -> None:
        with pytest.raises(RuntimeError), start_run("p", "cut") as run:
            train(run, stop_after=3)
        with start_run("p", "cut") as run:
            again = run.checkpoint({"w": np.ones(2)}, step=9).wait()
            assert run.checkpoint({"w": np.ones(2)}, step=9).wait().id == again.id
            with pytest.raises(ConflictError, match=r"p/cut@9 is registered with other content"):
                run.checkpoint({"w": np.zeros(2)}, step=9).wait()

        assert [step for step, _ in contents(registry, "cut")] == [1, 2, 3, 9]

    def test_a_run_that_was_begun_from_elsewhere_refuses_another_base(self, home: Path) -> None:
        with start_run("p", "whole", home=home) as run:
            train(run)
        with pytest.raises(RuntimeError), start_run("p", "next", resume_from="p/whole@2") as run:
            train(run, stop_after=3)

        with pytest.raises(ConflictError, match="other inputs"), start_run("p", "next"):
            pass

    def test_only_a_checkpoint_can_be_resumed_from(self, home: Path) -> None:
        with start_run("p", "whole", home=home) as run:
            train(run)

        with (
            pytest.raises(ConfigurationError, match=r"a training run, not a checkpoint.*@latest"),
            start_run("p", "next", resume_from="p/whole"),
        ):
            pass

    def test_a_complete_run_is_refused_or_reused(self, registry: Registry) -> None:
        with start_run("p", "whole") as run:
            train(run)
        with pytest.raises(ConflictError, match="p/whole is complete"), start_run("p", "whole"):
            pass
        with start_run("p", "whole", reuse=True) as run:
            assert run.complete
            with pytest.raises(ConflictError, match="complete"):
                run.checkpoint(WEIGHTS, step=99)

        assert registry.run("p", "whole").state == "finished"

    def test_other_parameters_need_another_name(self, home: Path) -> None:
        with pytest.raises(RuntimeError), start_run("p", "cut", params={"lr": 1}, home=home) as run:
            train(run, stop_after=2)

        with (
            pytest.raises(ConflictError, match="other parameters"),
            start_run("p", "cut", params={"lr": 2}),
        ):
            pass


class TestState:
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.tuples(inner, inner)
                | st.dictionaries(st.text().filter(lambda key: key[:1] != "$"), inner, max_size=3)
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_every_value_comes_back_as_it_was_with_sorted_keys(
        self, tmp_path_factory: pytest.TempPathFactory, value: object
    ) -> None:
        path = tmp_path_factory.mktemp("state") / "state.json"
        path.write_bytes(write_state("it", {"rng": value}))

        assert pformat(read_state(path, "it")["rng"]) == pformat(value)

    @pytest.mark.parametrize(
        "kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
    )
    def test_every_generator_of_numpy_goes_on_where_it_was(
        self, tmp_path: Path, kind: type[np.random.BitGenerator]
    ) -> None:
        generator = np.random.Generator(kind(3))
        generator.standard_normal(11, dtype=np.float32)
        (tmp_path / "state.json").write_bytes(
            write_state("it", {"rng": generator.bit_generator.state})
        )
        expected = generator.random(50)
        other = np.random.Generator(kind(4))
        other.bit_generator.state = read_state(tmp_path / "state.json", "it")["rng"]

        assert other.random(50).tolist() == expected.tolist()

    def test_no_number_in_the_file_is_beyond_what_every_reader_reads_exactly(self) -> None:
        written = write_state("it", {"rng": np.random.PCG64(1).state, "nan": math.nan})

        numbers: list[float] = []
        json.loads(
            written,
            parse_int=lambda text: numbers.append(abs(int(text))),
            parse_constant=pytest.fail,
        )
        assert numbers
        assert max(numbers) < 2**53

    @pytest.mark.parametrize("value", [{1.5: 2}, {"$int": "1"}, object(), {"a": {1, 2}}])
    def test_what_has_no_form_is_refused_by_name(self, value: object) -> None:
        with pytest.raises(TrainerError, match=r"^it has a scheduler or RNG state that cannot"):
            write_state("it", {"rng": value})


class TestCheckpoints:
    def test_the_files_are_the_standard_layout(self, registry: Registry) -> None:
        strided = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
        with start_run("p", "r") as run:
            saved = run.checkpoint(
                {"a": strided, "b": np.array(1.5)},
                step=np.int64(3),  # type: ignore[arg-type] # trainers count with numpy
                epoch=0.5,
                optimizer={"m": np.zeros(2)},
                files={"vocabulary.txt": b"a b c"},
            ).wait()

        loaded = load(registry.read("p/r@3", "model.safetensors"))
        assert [file.path for file in registry.files(saved.id)] == [
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
            "vocabulary.txt",
        ]
        assert loaded["a"].tolist() == strided.tolist()
        assert loaded["b"].shape == ()
        assert saved.record.facts == {
            "metrics": {},
            "epoch": 0.5,
            "optimizer": True,
            "scheduler": False,
            "rng": False,
            "training": {"precision": ["float64", "int32"]},
        }

    def test_what_is_not_finite_is_recorded_as_it_is(self, registry: Registry) -> None:
        with start_run("p", "r") as run:
            run.checkpoint(WEIGHTS, step=0, metrics={"a": math.nan, "b": -math.inf, "c": 1})

        found = registry.find("p/r@0").metrics
        assert math.isnan(found["a"])
        assert (found["b"], found["c"]) == (-math.inf, 1.0)

    def test_ten_thousand_metrics_are_one_checkpoint(self, registry: Registry) -> None:
        with start_run("p", "r") as run:
            run.checkpoint(WEIGHTS, step=0, metrics={f"m{i}": i for i in range(10_000)})

        assert len(registry.find("p/r@0").metrics) == 10_000

    def test_a_folder_is_taken_as_it_is(self, registry: Registry) -> None:
        with start_run("p", "r") as run:
            folder = run.workdir / "out"
            (folder / "sub").mkdir(parents=True)
            (folder / "sub" / "weights.bin").write_bytes(b"123")
            (folder / "done").touch()
            run.checkpoint(folder, step=1)
            workdir = run.workdir

        assert [file.path for file in registry.files("p/r@1")] == ["done", "sub/weights.bin"]
        assert not workdir.exists()

    def test_a_checkpoint_of_foreign_files_can_be_resumed(self, home: Path) -> None:
        def interrupted() -> None:
            with start_run("p", "r", home=home) as run:
                file = run.workdir / "net.bin"
                file.write_bytes(b"123")
                run.checkpoint(str(file), step=1)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            interrupted()
        with start_run("p", "r", home=home) as run:
            point = run.resume
            assert point is not None
            assert (point.folder / "net.bin").read_bytes() == b"123"

        assert (point.step, point.tensors, point.optimizer, point.rng) == (1, {}, {}, {})

    @pytest.mark.parametrize(
        "name, content, sentence",
        [
            ("gone.bin", None, "'.*gone.bin' does not exist"),
            ("empty.bin", b"", "'.*empty.bin' is empty"),
            ("half.safetensors", b"\xff" * 40, "'.*half.safetensors' is not a whole safetensors"),
        ],
    )
    def test_a_file_that_is_no_checkpoint_is_named_and_nothing_is_registered(
        self, registry: Registry, name: str, content: bytes | None, sentence: str
    ) -> None:
        def body() -> None:
            with start_run("p", "r") as run:
                if content is not None:
                    (run.workdir / name).write_bytes(content)
                run.checkpoint(run.workdir / name, step=1)

        with pytest.raises(SourceError, match=sentence):
            body()

        view = registry.run("p", "r")
        assert view.checkpoints == ()
        assert view.state == "failed"
        assert re.search(sentence, view.reason)

    def test_links_and_empty_folders_are_refused(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "folder" / "inner").mkdir(parents=True)
        with start_run("p", "r", home=home) as run:
            with pytest.raises(SourceError, match="link' is a symbolic link"):
                run.checkpoint(tmp_path / "link", step=1)
            with pytest.raises(SourceError, match="folder' is empty"):
                run.checkpoint(tmp_path / "folder", step=1)
            (tmp_path / "folder" / "inner" / "away").symlink_to(tmp_path)
            with pytest.raises(SourceError, match="away' is a symbolic link"):
                run.checkpoint(tmp_path / "folder", step=1)
            run.checkpoint(WEIGHTS, step=1)

    def test_values_that_cannot_be_saved_are_named(self, home: Path) -> None:
        with start_run("p", "r", home=home) as run:
            with pytest.raises(TrainerError, match="p/r@1 has no tensors"):
                run.checkpoint({}, step=1)
            with pytest.raises(TrainerError, match="the tensor 'w' is a list"):
                run.checkpoint({"w": [1.0]}, step=1)
            with pytest.raises(TrainerError, match="safetensors cannot hold"):
                run.checkpoint({"w": np.array(["text"])}, step=1)
            with pytest.raises(TrainerError, match="the metric 'auc' is 'high', not a number"):
                run.checkpoint(WEIGHTS, step=1, metrics={"auc": "high"})  # type: ignore[dict-item]
            with pytest.raises(TrainerError, match=r"the step must be a whole number, not 1\.5"):
                run.checkpoint(WEIGHTS, step=1.5)  # type: ignore[arg-type] # the mistake
            with pytest.raises(TrainerError, match=r"two files 'state\.json'"):
                run.checkpoint(WEIGHTS, step=1, files={"state.json": b"{}"})
            run.checkpoint(WEIGHTS, step=1)

    def test_a_run_without_a_checkpoint_has_failed(self, registry: Registry) -> None:
        with pytest.raises(TrainerError, match="p/r saved no checkpoint"), start_run("p", "r"):
            pass

        assert registry.run("p", "r").state == "failed"

    def test_a_closed_run_takes_nothing(self, home: Path) -> None:
        with start_run("p", "r", home=home) as run:
            run.checkpoint(WEIGHTS, step=1)

        with pytest.raises(TrainerError, match="the run p/r is closed"):
            run.checkpoint(WEIGHTS, step=2)


class TestInputs:
    def test_a_frame_comes_back_as_a_frame(self, registry: Registry, tmp_path: Path) -> None:
        frame = pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})
        frame.to_parquet(tmp_path / "data.parquet")
        dataset = registry.publish_dataset(
            "p", "images", {"data.parquet": tmp_path / "data.parquet"}
        )
        with start_run("p", "r", inputs=["p/images@latest"]) as run:
            read = run.dataset("images")
            assert run.dataset("images") is read
            run.checkpoint(WEIGHTS, step=1)

        pd.testing.assert_frame_equal(read, frame)
        assert run.artifact.record.inputs == (Input("dataset:images", dataset.id),)

    def test_arrays_and_folders_come_back_by_the_names_they_were_given(
        self, registry: Registry
    ) -> None:
        from safetensors.numpy import save

        registry.publish_dataset("p", "arrays", {"data.safetensors": save(WEIGHTS)})
        registry.publish_dataset("p", "texts", {"a/b.txt": b"hello"})
        inputs = {"train": "p/arrays@1", "notes": registry.find("p/texts@1").id}
        with start_run("p", "r", inputs=inputs) as run:
            assert run.dataset("train")["w"].tolist() == WEIGHTS["w"].tolist()
            assert (run.dataset("notes") / "a" / "b.txt").read_bytes() == b"hello"
            with pytest.raises(UnknownArtifactError, match=r"no input dataset 'x'.* notes, train"):
                run.dataset("x")
            run.checkpoint(WEIGHTS, step=1)

    def test_inputs_that_cannot_be_are_refused_before_anything_is_registered(
        self, registry: Registry
    ) -> None:
        registry.publish_dataset("p", "d", {"a": b"1"})
        registry.publish_dataset("q", "d", {"a": b"2"})
        wrong: list[tuple[Any, type[Exception], str]] = [
            (["p/none@1"], UnknownArtifactError, "p/none@1"),
            (["p/d@1", "q/d@1"], ConfigurationError, "two inputs are named 'd'"),
            ("p/d@1", ConfigurationError, "list of references"),
        ]
        for inputs, kind, sentence in wrong:
            with pytest.raises(kind, match=sentence), start_run("p", "r", inputs=inputs):
                pass

        assert registry.runs("p") == []


class TestProvenance:
    def test_a_run_records_code_packages_and_machine(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", "s3cr3t", "--token=s3cr3t"])
        monkeypatch.setenv("DATABASE_PASSWORD", "s3cr3t")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with start_run("p", "r", params={"lr": 0.1, "layers": [1, 2]}) as run:
            run.checkpoint(WEIGHTS, step=1)

        packages = registry.read("p/r", "environment.txt")
        surroundings = machine.surroundings()
        assert run.params == {"lr": 0.1, "layers": [1, 2]}
        assert f"numpy=={np.__version__}\n" in packages.decode()
        assert packages.decode().splitlines() == sorted(packages.decode().splitlines())
        assert run.artifact.record.lock == digest.sha256(packages)
        assert surroundings["argv"] == ["train.py", "--api-key", "…", "--token=…"]
        assert surroundings["variables"]["OMP_NUM_THREADS"] == "1"
        assert "s3cr3t" not in repr(surroundings)

    def test_the_parameters_cannot_be_changed(self, home: Path) -> None:
        with start_run("p", "r", params={"lr": 0.1}, home=home) as run:
            run.checkpoint(WEIGHTS, step=1)
            with pytest.raises(TypeError):
                run.params["lr"] = 1  # type: ignore[index] # the mistake

    def test_a_commit_is_dirty_once_code_was_touched(self, tmp_path: Path) -> None:
        def git(*arguments: str) -> None:
            identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
            command = ["git", *identity, *arguments]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

        script = tmp_path / "train.py"
        script.write_text("1")
        git("init")
        empty = provenance.code_of(script, None).facts
        git("add", "train.py")
        git("commit", "-m", "x")
        (tmp_path / "notes.txt").touch()
        clean = provenance.code_of(script, None).facts
        (tmp_path / "model.py").write_text("2")
        dirty = provenance.code_of(script, "train:fit").facts

        assert empty == {"dirty": True, "entry_point": "train.py"}
        assert clean["dirty"] is False
        assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"])
        assert dirty == {
            "commit": clean["commit"],
            "dirty": True,
            "diff": "code.diff",
            "entry_point": "train:fit",
        }

    def test_code_outside_any_repository_is_known_by_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        found = provenance.code_of(tmp_path / "train.py", None)
        assert found.facts == {"entry_point": "train.py"}

    def test_a_run_without_a_name_is_named_by_the_time(self, home: Path) -> None:
        with start_run("p", home=home) as first:
            first.checkpoint(WEIGHTS, step=1)
        with start_run("p", home=home) as second:
            second.checkpoint(WEIGHTS, step=1)

        assert re.fullmatch(r"run-\d{8}T\d{6}\.\d{6}Z", first.name)
        assert first.name < second.name


class TestTheWorker:
    TRAINER = """
import sys, time
import numpy as np

def fit(run):
    if run.params.get("mood") == "bad":
        raise ValueError("the loss is a banana")
    if run.params.get("mood") == "idle":
        return
    run.checkpoint({"w": np.ones(2)}, step=1, metrics={"loss": 0.25, "auc": 0.5})
    if run.params.get("mood") == "slow":
        time.sleep(60)
    run.checkpoint({"w": np.zeros(2)}, step=2, metrics={"loss": 0.125})
"""

    def launch(self, tmp_path: Path, **extras: object) -> tuple[subprocess.Popen[str], Path]:
        (tmp_path / "my_trainer.py").write_text(self.TRAINER)
        job = {"project": "p", "run": "r", "train": "my_trainer:fit", "params": {}, "inputs": {}}
        messages = tmp_path / "messages"
        messages.touch()
        context = {
            "asset_keys": None,
            "code_version_by_asset_key": None,
            "provenance_by_asset_key": None,
            "partition_key": None,
            "partition_key_range": None,
            "partition_time_window": None,
            "run_id": "run",
            "job_name": None,
            "retry_number": 0,
            "extras": {**job, "python_path": [str(tmp_path)], **extras},
        }
        (tmp_path / "context").write_text(json.dumps(context))
        process = subprocess.Popen(
            [sys.executable, "-m", "artifact_pipelines.sdk"],
            env={
                **os.environ,
                "DAGSTER_PIPES_CONTEXT": dagster_pipes.encode_param(
                    {"path": str(tmp_path / "context")}
                ),
                "DAGSTER_PIPES_MESSAGES": dagster_pipes.encode_param({"path": str(messages)}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, messages

    def said(self, messages: Path) -> dict[str, Any]:
        lines = [json.loads(line) for line in messages.read_text().splitlines()]
        (payload,) = [
            line["params"]["payload"] for line in lines if line["method"] == "report_custom_message"
        ]
        return dict(payload)

    def test_it_trains_once_and_tells_dagster(self, registry: Registry, tmp_path: Path) -> None:
        process, messages = self.launch(tmp_path)
        out, _ = process.communicate(timeout=60)
        first = self.said(messages)
        messages.write_text("")
        process, messages = self.launch(tmp_path)
        again, _ = process.communicate(timeout=60)

        assert process.returncode == 0
        assert out.splitlines() == ["p/r@1  auc 0.5, loss 0.25", "p/r@2  loss 0.125"]
        assert first == {"outcome": "finished", "error": None, "checkpoints": 2}
        assert again.splitlines() == ["p/r is complete: nothing is trained again"]
        assert self.said(messages) == first
        assert registry.run("p", "r").artifact.record.code["entry_point"] == "my_trainer:fit"

    @pytest.mark.parametrize(
        "extras, sentence",
        [
            (
                {"params": {"mood": "bad"}},
                "the trainer my_trainer:fit raised ValueError: the loss is a banana",
            ),
            (
                {"params": {"mood": "idle"}},
                "the run p/r saved no checkpoint; call run.checkpoint(…) at least once.",
            ),
            (
                {"train": "my_trainer:fitt"},
                "the module 'my_trainer' has no function 'fitt'.",
            ),
            (
                {"train": "nowhere:fit"},
                (
                    "the trainer 'nowhere:fit' cannot be imported: "
                    "ModuleNotFoundError: No module named 'nowhere'"
                ),
            ),
            ({"run": ""}, "the request to train lacks run."),
        ],
    )
    def test_what_goes_wrong_is_one_sentence_and_an_exit_code(
        self, home: Path, tmp_path: Path, extras: dict[str, Any], sentence: str
    ) -> None:
        process, messages = self.launch(tmp_path, **extras)
        _, err = process.communicate(timeout=60)

        assert process.returncode == 1, home
        assert self.said(messages) == {"outcome": "failed", "error": sentence, "checkpoints": 0}
        assert err.splitlines()[-1] == sentence
        assert json.dumps(sentence) in messages.read_text()
        assert ("Traceback" in err) == (
            "raised" in sentence or "cannot be" in sentence or "fitt" in sentence
        )

    def test_a_trainer_that_is_stopped_can_go_on(self, registry: Registry, tmp_path: Path) -> None:
        process, messages = self.launch(tmp_path, params={"mood": "slow"})
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        process.communicate(timeout=30)

        view = registry.run("p", "r")
        assert line == "p/r@1  auc 0.5, loss 0.25\n"
        assert process.returncode == 143
        assert time.monotonic() - began < 20
        assert self.said(messages)["error"] == "the trainer was stopped by SIGTERM."
        assert (view.state, len(view.checkpoints)) == ("failed", 1)

    def test_nobody_starts_it_by_hand(self, home: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "artifact_pipelines.sdk"],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 2, home
        assert done.stderr == "artifact_pipelines.sdk is started by Dagster, not by hand.\n"


class TestResolving:
    def test_a_stage_is_fetched_with_its_proof(self, registry: Registry, tmp_path: Path) -> None:
        registry.set_policy("p", Policy(promotion={"staging": "automatic"}))
        with start_run("p", "r") as run:
            run.checkpoint(WEIGHTS, step=1, metrics={"auc": 0.5})
        model = registry.evaluate("p", "r").chosen
        assert model is not None
        promotion = registry.promote(model.reference, "staging")
        found = resolve("p@staging")
        folder = found.fetch(tmp_path / "serve")

        assert (found.model, found.id, found.content) == ("p/v1", model.id, model.content)
        assert (found.seq, found.pending) == (promotion.seq, False)
        assert found.metrics == {"auc": 0.5}
        assert found.proof.verify(registry.log_key())[0].seq == found.seq
        assert [file.name for file in folder.iterdir()] == ["model.safetensors"]
        assert load((folder / "model.safetensors").read_bytes())["w"].tolist() == [0, 1, 2, 3]

    def test_a_stage_that_serves_nothing_says_so(self, home: Path, registry: Registry) -> None:
        registry.set_policy("p", Policy(promotion={"production": "automatic"}))
        with pytest.raises(UnknownArtifactError, match="p@production serves nothing yet"):
            resolve("p@production", home=home)


class TestHomes:
    def test_a_home_that_is_made_is_named_once(
        self, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("one", "two"):
            with start_run("p", name) as run:
                run.checkpoint(WEIGHTS, step=1)
        said = capsys.readouterr().err

        assert said == (
            f"artifact-pipelines: {home} is a new home, with nothing in it yet; "
            "set ARTIFACT_PIPELINES_HOME, or pass home=, to use another.\n"
        )

    def test_a_run_with_inputs_makes_no_home(self, home: Path) -> None:
        for asked in ({"inputs": ["p/rows@latest"]}, {"resume_from": "p/one@3"}):
            with (
                pytest.raises(UnknownArtifactError, match=f"the home {home} is empty; set"),
                start_run("p", "one", **asked),
            ):
                pass
        with pytest.raises(UnknownArtifactError, match="is empty"):
            resolve("p@production")

        assert not home.exists()


class TestThePackage:
    def test_importing_it_imports_nothing_heavy(self) -> None:
        program = (
            "import sys, artifact_pipelines, artifact_pipelines.sdk\n"
            "artifact_pipelines.start_run, artifact_pipelines.__version__\n"
            "heavy = {'alembic', 'cryptography', 'dagster', 'dagster_pipes', 'numpy', 'pandas',"
            " 'pyarrow', 'pydantic', 'safetensors', 'sqlalchemy', 'yaml'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )

        assert done.stdout == "[]\n"

    def test_its_public_names_are_there(self) -> None:
        assert [
            name for name in artifact_pipelines.__all__ if not hasattr(artifact_pipelines, name)
        ] == []
        assert artifact_pipelines.__version__[0].isdigit()
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = artifact_pipelines.nothing


def test_what_is_reported_between_checkpoints_is_in_the_next_one(home: Path) -> None:
    with start_run("p", "r", home=home) as run:
        run.log({"loss": 0.5, "odd": float("nan")}, step=1)
        run.log({"größe": 2}, step=2)
        run.checkpoint({"w": np.ones(2)}, step=2)
        run.checkpoint({"w": np.zeros(2)}, step=3)
        run.log({"loss": 0.1}, step=4)
        with pytest.raises(TrainerError, match=r"p/r@5: the metric 'loss' is 'low', not a number"):
            run.log({"loss": "low"}, step=5)  # type: ignore[dict-item]
        with pytest.raises(TrainerError, match="the step must be a whole number"):
            run.log({}, step=1.5)  # type: ignore[arg-type]
    with open_registry(home) as registry:
        kept = registry.read("p/r@2", "metrics.jsonl").decode().splitlines()
        files = [file.path for file in registry.files("p/r@3")]

    assert [json.loads(line) for line in kept] == [
        {"step": 1, "metrics": {"loss": 0.5, "odd": "NaN"}},
        {"step": 2, "metrics": {"größe": 2}},
    ]
    assert files == ["model.safetensors", "state.json"]


def test_reports_without_end_take_bounded_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifact_pipelines.sdk.running._MOST_LOGGED", 4_000)
    with start_run("p", "r", home=home) as run:
        for step in range(1_000):
            run.log({"loss": 0.5}, step=step)
        run.checkpoint({"w": np.ones(2)}, step=1_000)
    with open_registry(home) as registry:
        kept = registry.read("p/r@1000", "metrics.jsonl").splitlines()
        steps = [json.loads(line)["step"] for line in kept]

    assert 40 < len(kept) <= 110
    assert steps == sorted(steps)
    assert steps[0] == 0


def test_what_a_run_leaves_out_is_as_its_project_declares_it(registry: Registry) -> None:
    registry.note_outlines({"churn": Outline({"epochs": 5, "lr": 0.5}, ("rows",), ("rows",))})
    with pytest.raises(RuntimeError), start_run("churn", "run-1", params={"epochs": 2}):
        raise RuntimeError("the power went out")
    # A default that changes meanwhile changes nothing of what has begun.
    registry.note_outlines({"churn": Outline({"epochs": 5, "lr": 0.1}, ("rows",), ("rows",))})
    with start_run("churn", "run-1") as run:
        run.checkpoint(WEIGHTS, step=1)
        resumed = dict(run.params)
    with start_run("churn", "run-2") as run:
        run.checkpoint(WEIGHTS, step=1)
        begun = dict(run.params)

    assert resumed == {"epochs": 2, "lr": 0.5}
    assert begun == {"epochs": 5, "lr": 0.1}


@pytest.mark.parametrize(
    "params, said",
    [
        ({"epcohs": 2}, "churn declares no parameter 'epcohs'; it declares epochs"),
        ({"epochs": "two"}, "'epochs' of churn is a number, 5 by default, and 'two' is none"),
    ],
)
def test_a_parameter_that_the_project_does_not_declare_begins_nothing(
    registry: Registry, params: dict[str, object], said: str
) -> None:
    registry.note_outlines({"churn": Outline({"epochs": 5}, ("rows",), ("rows",))})
    with pytest.raises(ConfigurationError, match=said), start_run("churn", params=params):
        pass

    assert registry.runs("churn") == []
