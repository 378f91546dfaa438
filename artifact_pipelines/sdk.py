"""What a trainer calls: start a run, save its checkpoints, resume it, find what serves.

Trainers pay for this import, so what is heavy is imported where it is used.
"""

import base64
import contextlib
import importlib
import json
import math
import operator
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from artifact_pipelines.domain.record import Input, Kind
from artifact_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    ConflictError,
    SourceError,
    TrainerError,
    UnknownArtifactError,
)
from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from dagster_pipes import PipesContext
    from numpy.typing import NDArray

    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.promoting import Resolved as Proven
    from artifact_pipelines.registry.reading import Artifact

__all__ = ["Resolved", "ResumePoint", "Run", "resolve", "start_run"]

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
ENVIRONMENT_FILE = "environment.txt"
STATE_FORMAT = "artifact-pipelines/state/v1"

_DATASET_ROLE = "dataset:"
_EXACT = 2**53
_GIT_SECONDS = 10
_REASON_LENGTH = 500
_SHOWN_METRICS = 8
_STOPPED = 128 + signal.SIGTERM

# What changes a training's numbers or its speed; everything else may hold a secret.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
)
_SECRET = re.compile(
    r"(?i)(-{0,2}[\w.-]*(?:token|secret|passw|credential|api[_-]?key)[\w.-]*)(=.*)?"
)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A checkpoint that a run goes on from.

    Attributes:
        step: Its step.
        epoch: Its epoch, if it was given one.
        tensors: The weights; empty where the checkpoint has no `model.safetensors`.
        optimizer: The optimizer's tensors; empty where none were saved.
        scheduler: The schedule's state; empty where none was saved.
        rng: The random generators' state; empty where none was saved.
        reference: The checkpoint.
        folder: All of its files.
    """

    step: int
    epoch: float | None
    tensors: "Mapping[str, NDArray[Any]]"
    optimizer: "Mapping[str, NDArray[Any]]"
    scheduler: Mapping[str, Any]
    rng: Mapping[str, Any]
    reference: str
    folder: Path


class Run:
    """A training run that is open in this process.

    Attributes:
        artifact: The registered run.
        workdir: A folder of its own, removed when the run is closed.
        params: The parameters that it was begun with.
        complete: Whether it had finished before; then it takes no more checkpoints.
    """

    def __init__(
        self,
        registry: "Registry",
        artifact: "Artifact",
        workdir: Path,
        *,
        resume_from: "Artifact | None" = None,
        on_checkpoint: "Callable[[Artifact], None] | None" = None,
    ) -> None:
        """Open a run that is registered; `start_run` does both."""
        view = registry.run(artifact.project, artifact.name)
        self.artifact = artifact
        self.workdir = workdir
        self.params: Mapping[str, Any] = MappingProxyType(dict(artifact.record.params))
        self.complete = view.state == "finished"
        self._registry = registry
        self._base = resume_from
        self._on_checkpoint = on_checkpoint
        self._saved = {_step_of(saved): saved for saved in view.checkpoints}
        self._point = self._saved[max(self._saved)] if self._saved else resume_from
        self._datasets: dict[str, Any] = {}
        self._closed = False

    @property
    def project(self) -> str:
        """The project."""
        return self.artifact.project

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.artifact.name

    @property
    def reference(self) -> str:
        """The text that finds this run again."""
        return self.artifact.reference

    @property
    def checkpoints(self) -> "tuple[Artifact, ...]":
        """The checkpoints so far, by step."""
        return tuple(self._saved[step] for step in sorted(self._saved))

    @cached_property
    def resume(self) -> ResumePoint | None:
        """The checkpoint to go on from: the run's own newest, else the one it was started from."""
        point = self._point
        if point is None:
            return None
        folder = self._registry.fetch(point.id, self.workdir / "resume")
        state = _read_state(folder / STATE_FILE, point.reference)
        return ResumePoint(
            step=_step_of(point),
            epoch=state.get("epoch"),
            tensors=_load_tensors(folder / MODEL_FILE),
            optimizer=_load_tensors(folder / OPTIMIZER_FILE),
            scheduler=state.get("scheduler") or {},
            rng=state.get("rng") or {},
            reference=point.reference,
            folder=folder,
        )

    def dataset(self, name: str) -> Any:  # noqa: ANN401 (the dataset's files decide)
        """Return an input dataset, read once.

        That is a pandas frame where it has a `data.parquet`, arrays by name where it has a
        `data.safetensors`, else the folder of its files.

        Raises:
            UnknownArtifactError: The run has no such input.
        """
        if name not in self._datasets:
            self._datasets[name] = self._read_dataset(name)
        return self._datasets[name]

    def checkpoint(
        self,
        tensors: "Mapping[str, NDArray[Any]] | str | Path",
        *,
        step: int,
        metrics: Mapping[str, float] | None = None,
        epoch: float | None = None,
        optimizer: "Mapping[str, NDArray[Any]] | None" = None,
        scheduler: Mapping[str, Any] | None = None,
        rng: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path | bytes] | None = None,
    ) -> "Artifact":
        """Return a checkpoint, registered when this returns; the same one twice is one.

        Args:
            tensors: The weights by name, or a file or folder that is taken as it is.
            step: The number of steps taken.
            metrics: Numbers by name; NaN and the infinities are recorded as such.
            epoch: The number of epochs, whole or in part.
            optimizer: The optimizer's tensors by name.
            scheduler: The schedule's state: numbers, text, lists, tuples, mappings, arrays.
            rng: The random generators' state, of the same types.
            files: More files by path.

        Raises:
            TrainerError: A value cannot be saved.
            SourceError: A file cannot be read.
            ConflictError: The step has other content, or the run is complete.
        """
        self._check_open()
        step = _whole("step", step)
        what = f"checkpoint {self.reference}@{step}"
        as_is = isinstance(tensors, str | Path)
        content: Mapping[str, Path | bytes] = (
            _files_of(Path(tensors))
            if isinstance(tensors, str | Path)
            else {MODEL_FILE: _save_tensors(what, tensors)}
        )
        added: dict[str, Path | bytes] = {}
        if optimizer is not None:
            added[OPTIMIZER_FILE] = _save_tensors(f"the optimizer of {what}", optimizer)
        if not as_is or scheduler is not None or rng is not None:
            state = {"step": step, "epoch": epoch, "scheduler": scheduler, "rng": rng}
            added[STATE_FILE] = _write_state(what, state)
        for path, source in (files or {}).items():
            if path in added:
                raise TrainerError(f"{what} has two files {path!r}; rename one.")
            added[path] = source if isinstance(source, bytes) else _plain_file(Path(source))
        twice = sorted(content.keys() & added.keys())
        if twice:
            raise TrainerError(f"{what} has two files {twice[0]!r}; rename one.")
        facts = {
            "metrics": _numbers(what, metrics or {}),
            "epoch": epoch,
            "optimizer": optimizer is not None,
            "scheduler": scheduler is not None,
            "rng": rng is not None,
        }
        there = self._saved.get(step)
        saved = self._registry.publish_checkpoint(
            self.artifact,
            {**content, **added},
            step=step,
            facts=facts,
            inputs=self._parent(step) if there is None else there.record.inputs,
            attempt=1 if there is None else there.record.attempt,
        )
        self._saved[step] = saved
        if self._on_checkpoint is not None:
            self._on_checkpoint(saved)
        return saved

    def check_saved(self) -> None:
        """Refuse a run without any checkpoint.

        Raises:
            TrainerError: There is none.
        """
        if not self._saved:
            raise TrainerError(
                f"the run {self.reference} saved no checkpoint; "
                "call run.checkpoint(…) at least once."
            )

    def close(self) -> None:
        """Take no more checkpoints."""
        self._closed = True

    def _check_open(self) -> None:
        if self.complete:
            raise ConflictError(_complete(self.reference))
        if self._closed:
            raise TrainerError(
                f"the run {self.reference} is closed; save checkpoints inside its `with` block."
            )

    def _parent(self, step: int) -> list[Input]:
        earlier = [saved for saved in self._saved if saved < step]
        parent = self._saved[max(earlier)] if earlier else self._base
        return [] if parent is None else [Input("parent", parent.id)]

    def _read_dataset(self, name: str) -> Any:  # noqa: ANN401 (the dataset's files decide)
        roles = {
            item.role.removeprefix(_DATASET_ROLE): item.id
            for item in self.artifact.record.inputs
            if item.role.startswith(_DATASET_ROLE)
        }
        if name not in roles:
            raise UnknownArtifactError(
                f"the run {self.reference} has no input dataset {name!r}; "
                f"it has {', '.join(sorted(roles)) or 'none'}."
            )
        # The role may hold what a file name may not.
        folder = self._registry.fetch(roles[name], self.workdir / "datasets" / roles[name])
        if (folder / "data.parquet").is_file():
            import pandas as pd

            return pd.read_parquet(folder / "data.parquet")
        if (folder / "data.safetensors").is_file():
            return _load_tensors(folder / "data.safetensors")
        return folder


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a stage serves.

    Attributes:
        reference: The stage, as it was asked for.
        model: The model: `digits/v3`.
        id: Its artifact id.
        content: Its content digest.
        metrics: The metrics recorded with it.
        seq: The pointer leaf; it changes when the pointer moves.
        pending: Whether a later move waits for a signed head.
        proven: The model with the proof that the signed log points at it.
    """

    reference: str
    model: str
    id: str
    content: str
    metrics: Mapping[str, float]
    seq: int
    pending: bool
    proven: "Proven"
    _settings: Settings

    def fetch(self, to: str | Path) -> Path:
        """Return the folder, with the model's files written to it and verified."""
        with _open(self._settings) as registry:
            return registry.fetch(self.id, Path(to))


def resolve(reference: str, *, home: str | Path | None = None) -> Resolved:
    """Return what a stage such as `digits@production` serves, proven by the signed log.

    Raises:
        UnknownArtifactError: The stage serves nothing.
        LedgerError: The log does not prove what the catalog says.
    """
    settings = _settings(home)
    with _open(settings) as registry:
        proven = registry.resolve(reference)
    model = proven.model
    return Resolved(
        reference=reference,
        model=model.reference,
        id=model.id,
        content=model.content,
        metrics=MappingProxyType(model.metrics),
        seq=proven.seq,
        pending=proven.pending,
        proven=proven,
        _settings=settings,
    )


@contextlib.contextmanager
def start_run(
    project: str,
    name: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    inputs: Sequence[str] | Mapping[str, str] = (),
    resume_from: str | None = None,
    home: str | Path | None = None,
    reuse: bool = False,
) -> Iterator[Run]:
    """Yield a training run, begun now or interrupted before.

    The run has finished when the block ends, and failed when the block raises.

    Args:
        project: The project.
        name: The run's name; the time in UTC when left out.
        params: What the training depends on beside code and data.
        inputs: References of datasets, such as `digits/images@latest`; as a mapping, by the
            name under which `Run.dataset` finds them.
        resume_from: The reference of another run's checkpoint to go on from.
        home: The home of the registry; `ARTIFACT_PIPELINES_HOME` when left out.
        reuse: Whether to yield a complete run too, with `Run.complete` true.

    Raises:
        ConflictError: The run is complete, or was begun with other parameters or inputs.
        TrainerError: The block saved no checkpoint.
    """
    with _running(
        _Request(project, name, params or {}, inputs, resume_from), _settings(home), reuse=reuse
    ) as run:
        yield run


@dataclass(frozen=True, slots=True)
class _Request:
    """What a run is asked to be."""

    project: str
    name: str | None
    params: Mapping[str, Any]
    inputs: Sequence[str] | Mapping[str, str]
    resume_from: str | None


@contextlib.contextmanager
def _running(
    request: _Request,
    settings: Settings,
    *,
    reuse: bool = False,
    code: Mapping[str, Any] | None = None,
    annex: Mapping[str, Any] | None = None,
    on_checkpoint: "Callable[[Artifact], None] | None" = None,
) -> Iterator[Run]:
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(_open(settings))
        base = _base(registry, request.resume_from)
        artifact = registry.start_run(
            request.project,
            request.name or f"run-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}",
            params=request.params,
            inputs=[
                *_datasets(registry, request.inputs),
                *([] if base is None else [Input("resume", base.id)]),
            ],
            code=_code(_main_file(), None) if code is None else code,
            files={ENVIRONMENT_FILE: _environment()},
            annex={**_surroundings(), **(annex or {})},
        )
        workdir = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="artifact-pipelines-", ignore_cleanup_errors=True)
        )
        run = Run(registry, artifact, Path(workdir), resume_from=base, on_checkpoint=on_checkpoint)
        if run.complete:
            if not reuse:
                raise ConflictError(_complete(run.reference))
            yield run
            return
        try:
            yield run
            run.check_saved()
        except BaseException as error:
            try:
                registry.finish_run(artifact, "failed", _reason(error))
            except Exception as second:  # noqa: BLE001 (the trainer's own error is the one to see)
                error.add_note(f"That the run failed could not be recorded: {second}")
            raise
        finally:
            run.close()
        registry.finish_run(artifact, "finished")


def _settings(home: str | Path | None) -> Settings:
    chosen = {} if home is None else {"ARTIFACT_PIPELINES_HOME": str(home)}
    return Settings.from_environment({**os.environ, **chosen})


def _open(settings: Settings) -> "Registry":
    from artifact_pipelines.registry import open_registry

    return open_registry(
        settings.home,
        store_url=settings.store_url,
        catalog_url=settings.catalog_url,
        keys=settings.keys,
        actor=settings.actor,
    )


def _complete(reference: str) -> str:
    return (
        f"the run {reference} is complete; a run name trains once, so choose a new name, "
        "or pass reuse=True and look at Run.complete."
    )


def _reason(error: BaseException) -> str:
    sentence = str(error) if isinstance(error, ArtifactError) else _named(error)
    return sentence[:_REASON_LENGTH]


def _named(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# Inputs


def _datasets(registry: "Registry", inputs: Sequence[str] | Mapping[str, str]) -> list[Input]:
    if isinstance(inputs, str):
        raise ConfigurationError(f"inputs must be a list of references: [{inputs!r}].")
    named: dict[str, str] = {}
    pairs: list[tuple[str | None, str]] = (
        list(inputs.items())
        if isinstance(inputs, Mapping)
        else [(None, reference) for reference in inputs]
    )
    for name, reference in pairs:
        found = registry.find(reference)
        if found.kind is not Kind.DATASET:
            raise ConfigurationError(
                f"the input {reference!r} is a {found.kind.replace('_', ' ')}, not a dataset; "
                "to go on from a checkpoint, use resume_from."
            )
        role = found.name if name is None else name
        if role in named:
            raise ConfigurationError(
                f"two inputs are named {role!r}; pass a mapping with a name for each."
            )
        named[role] = found.id
    return [Input(f"{_DATASET_ROLE}{role}", artifact) for role, artifact in named.items()]


def _base(registry: "Registry", reference: str | None) -> "Artifact | None":
    if reference is None:
        return None
    found = registry.find(reference)
    if found.kind is not Kind.CHECKPOINT:
        hint = f"{found.reference}@latest" if found.kind is Kind.TRAINING_RUN else "digits/run-1@40"
        raise ConfigurationError(
            f"{reference!r} is a {found.kind.replace('_', ' ')}, not a checkpoint; "
            f"resume from a checkpoint such as {hint}."
        )
    return found


# Provenance


def _main_file() -> Path | None:
    found = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if found is None else Path(found)


def _code(file: Path | None, entry_point: str | None) -> dict[str, Any]:
    """Return the commit, whether it was changed, and the entry point, as far as known."""
    for folder in ([] if file is None else [file.absolute().parent]) + [Path.cwd()]:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is not None:
            break
    else:
        name = entry_point or (None if file is None else file.name)
        return {} if name is None else {"entry_point": name}
    root = Path(top.rstrip("\n"))
    code: dict[str, Any] = {}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is not None:
        code["commit"] = commit.strip()
    status = _git(root, "status", "--porcelain", "-z", "--untracked-files=all")
    if status is not None:
        # A file that is not tracked matters when Python could import it.
        code["dirty"] = any(
            line.endswith(".py") or not line.startswith("?? ")
            for line in status.split("\0")
            if line
        )
    if entry_point is not None:
        code["entry_point"] = entry_point
    elif file is not None:
        resolved = file.resolve()
        inside = resolved.is_relative_to(root.resolve())
        # A path outside the repository says where somebody's home is.
        code["entry_point"] = (
            resolved.relative_to(root.resolve()).as_posix() if inside else file.name
        )
    return code


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what Git says, or None where it cannot say anything."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 (every argument is ours)
            ["git", *arguments],  # noqa: S607 (Git is wherever the user has it)
            cwd=folder,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            check=False,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _environment() -> bytes:
    """Return the installed distributions, one `name==version` a line."""
    from importlib.metadata import distributions

    found = set()
    for distribution in distributions():
        # A removed distribution can leave a folder without metadata behind.
        name = distribution.metadata["Name"]
        if name:
            plain = re.sub(r"[-_.]+", "-", name).lower()
            found.add(f"{plain}=={distribution.version}\n")
    return "".join(sorted(found)).encode()


def _surroundings() -> dict[str, Any]:
    """Return where this process runs, for the annex."""
    import getpass
    import platform

    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):
        user = str(os.getuid())
    return {
        "host": platform.node(),
        "user": user,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "argv": _without_secrets(sys.argv),
        "variables": {key: os.environ[key] for key in _VARIABLES if key in os.environ},
    }


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    shown: list[str] = []
    hide = False
    for argument in arguments:
        found = _SECRET.fullmatch(argument)
        if found is None:
            shown.append("…" if hide else argument)
            hide = False
        else:
            shown.append(found[1] + ("=…" if found[2] else ""))
            hide = found[2] is None and argument.startswith("-")
    # Text that is no UTF-8 arrives as lone surrogates, which no JSON carries.
    return [text.encode("utf-8", "replace").decode() for text in shown]


# A checkpoint's files


def _files_of(path: Path) -> dict[str, Path | bytes]:
    """Return the files behind a path by the path that each will have."""
    if path.is_symlink() or not path.is_dir():
        return {path.name: _plain_file(path)}
    found: dict[str, Path | bytes] = {}

    def unreadable(error: OSError) -> NoReturn:
        raise SourceError(f"the folder {str(path)!r} cannot be read: {error.strerror}.") from error

    size = 0
    for folder, folders, names in os.walk(path, onerror=unreadable):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            file = Path(folder) / name
            found[file.relative_to(path).as_posix()] = _plain_file(file, may_be_empty=True)
            size += file.stat().st_size
    if not size:
        raise SourceError(f"the folder {str(path)!r} is empty; write the checkpoint's files first.")
    return found


def _plain_file(path: Path, *, may_be_empty: bool = False) -> Path:
    """Return a file that can be taken.

    Raises:
        SourceError: It is missing, empty, no plain file, or no whole safetensors file.
    """
    shown = str(path)
    if path.is_symlink():
        raise SourceError(f"the file {shown!r} is a symbolic link; these are not followed.")
    if not path.exists():
        raise SourceError(f"the file {shown!r} does not exist.")
    if not path.is_file():
        raise SourceError(f"{shown!r} is not a plain file.")
    if path.stat().st_size == 0:
        if may_be_empty:
            return path
        raise SourceError(f"the file {shown!r} is empty.")
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    return path


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{str(path)!r} is not a whole safetensors file: {error}.") from error


def _save_tensors(what: str, tensors: object) -> bytes:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    if not isinstance(tensors, Mapping) or not tensors:
        raise TrainerError(f"{what} has no tensors; pass arrays by name, or a path.")
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray | np.generic):
            raise TrainerError(
                f"{what}: the tensor {name!r} is a {type(array).__name__}; "
                "pass numpy arrays by name, or the path of a file."
            )
        # What a view leaves out must not be written, and the file's byte order is little-endian.
        plain = np.asarray(array, order="C")
        arrays[name] = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    try:
        return save(arrays)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise TrainerError(f"{what} has tensors that safetensors cannot hold: {error}.") from error


def _load_tensors(path: Path) -> "dict[str, NDArray[Any]]":
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise TrainerError(f"{path.name!r} cannot be read as numpy arrays: {error}.") from error


def _numbers(what: str, metrics: Mapping[str, float]) -> dict[str, float]:
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise TrainerError(
                f"{what}: the metric {name!r} is {value!r:.80}, not a number."
            ) from error
    return numbers


def _whole(what: str, value: object) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type] # what it refuses is the point
    except TypeError:
        pass
    raise TrainerError(f"the {what} must be a whole number, not {value!r}.")


def _step_of(checkpoint: "Artifact") -> int:
    if checkpoint.step is None:
        raise TrainerError(f"{checkpoint.reference} has no step.")
    return checkpoint.step


# What JSON cannot carry is a mapping of one key, which begins with a dollar sign.


def _write_state(what: str, state: Mapping[str, Any]) -> bytes:
    try:
        plain = _plain({"format": STATE_FORMAT, **state})
    except (TypeError, RecursionError) as error:
        raise TrainerError(
            f"{what} has a scheduler or RNG state that cannot be saved: {error}."
        ) from error
    text = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode()


def _read_state(path: Path, reference: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        state = _restored(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TrainerError(f"the state.json of {reference} cannot be read: {error}.") from error
    # A folder that was taken as it is may have a file of this name and another form.
    ours = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    return state if ours else {}


def _plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 (one branch for each type)
    """Return a value as JSON carries it without loss, for any reader."""
    import numpy as np

    match value:
        case None | bool() | str():
            return value
        case np.bool_() | np.integer():
            return _plain(value.item())
        case int():
            return int(value) if abs(value) < _EXACT else {"$int": str(int(value))}
        case float() | np.floating():
            number = float(value)
            return number if math.isfinite(number) else {"$float": str(number)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case list():
            return [_plain(item) for item in value]
        case tuple():
            return {"$tuple": [_plain(item) for item in value]}
        case np.ndarray() if not value.dtype.hasobject:
            return {
                "$array": base64.b64encode(value.tobytes()).decode(),
                "dtype": value.dtype.str,
                "shape": list(value.shape),
            }
        case Mapping():
            return {_key(key): _plain(item) for key, item in value.items()}
        case _:
            raise TypeError(f"a {type(value).__name__} has no JSON form")


def _key(key: object) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        raise TypeError(f"the key {key!r} must be text that does not begin with '$'")
    return key


def _restored(value: Any) -> Any:  # noqa: ANN401, PLR0911 (one branch for each type)
    """Return the value that `_plain` wrote."""
    match value:
        case list():
            return [_restored(item) for item in value]
        case {"$int": text}:
            return int(text)
        case {"$float": text}:
            return float(text)
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$tuple": items}:
            return tuple(_restored(item) for item in items)
        case {"$array": text, "dtype": dtype, "shape": shape}:
            import numpy as np

            return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape).copy()
        case dict():
            return {key: _restored(item) for key, item in value.items()}
        case _:
            return value


# The process that Dagster starts


def main() -> int:
    """Train as Dagster asks through Pipes, and return the exit code."""
    import dagster_pipes

    if not dagster_pipes.PipesEnvVarParamsLoader().is_dagster_pipes_process():
        sys.stderr.write("artifact_pipelines.sdk is started by Dagster, not by hand.\n")
        return 2
    signal.signal(signal.SIGTERM, _stop)
    with dagster_pipes.open_dagster_pipes() as pipes:
        return _work(pipes)


class _StoppedError(BaseException):
    """The request to end, which a trainer's `except Exception` does not catch."""


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise _StoppedError(f"the trainer was stopped by {signal.Signals(number).name}.")


def _work(pipes: "PipesContext") -> int:
    saved: set[int] = set()

    def report(checkpoint: "Artifact") -> None:
        saved.add(_step_of(checkpoint))
        sys.stdout.write(f"{_line(checkpoint)}\n")
        sys.stdout.flush()

    sentence, code = None, 0
    try:
        saved.update(_train(pipes.extras, {"dagster_run": pipes.run_id}, report))
    except ArtifactError as error:
        sentence, code = str(error), 1
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
    except (KeyboardInterrupt, _StoppedError) as error:
        sentence, code = str(error) or "the trainer was interrupted.", _STOPPED
    except Exception as error:  # noqa: BLE001 (whoever asked is told, whatever it is)
        traceback.print_exception(error)
        sentence, code = _named(error), 1
    if sentence is not None:
        sys.stderr.write(f"{sentence}\n")
    pipes.report_custom_message(
        {
            "outcome": "finished" if code == 0 else "failed",
            "error": sentence,
            "checkpoints": len(saved),
        }
    )
    return code


def _train(
    job: Mapping[str, Any], annex: Mapping[str, Any], report: "Callable[[Artifact], None]"
) -> list[int]:
    """Train, and return the steps of all checkpoints of the run."""
    missing = [field for field in ("project", "run", "train") if not job.get(field)]
    if missing:
        raise ConfigurationError(f"the request to train lacks {', '.join(missing)}.")
    sys.path[:0] = job.get("python_path") or []
    train = _function(job["train"])
    file = getattr(sys.modules[train.__module__], "__file__", None)
    request = _Request(
        job["project"],
        job["run"],
        job.get("params") or {},
        job.get("inputs") or {},
        job.get("resume_from"),
    )
    with _running(
        request,
        _settings(None),
        reuse=True,
        code=_code(None if file is None else Path(file), job["train"]),
        annex=annex,
        on_checkpoint=report,
    ) as run:
        if run.complete:
            sys.stdout.write(f"{run.reference} is complete: nothing is trained again\n")
        else:
            if run.resume is not None:
                sys.stdout.write(f"{run.reference} goes on from {run.resume.reference}\n")
            sys.stdout.flush()
            try:
                train(run)
            except ArtifactError:
                raise
            except (Exception, SystemExit) as error:
                raise TrainerError(f"the trainer {job['train']} raised {_named(error)}") from error
        return [_step_of(checkpoint) for checkpoint in run.checkpoints]


def _function(name: str) -> Callable[[Run], object]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ConfigurationError(f"the module {module!r} has no function {attribute!r}.") from error
    except Exception as error:
        raise ConfigurationError(
            f"the trainer {name!r} cannot be imported: {_named(error)}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"the trainer {name!r} is not a function.")
    checked: Callable[[Run], object] = found
    return checked


def _line(checkpoint: "Artifact") -> str:
    metrics = sorted(checkpoint.metrics.items())
    shown = [f"{name} {value:.6g}" for name, value in metrics[:_SHOWN_METRICS]]
    if len(metrics) > _SHOWN_METRICS:
        shown.append(f"and {len(metrics) - _SHOWN_METRICS} more")
    return f"{checkpoint.reference}  {', '.join(shown)}".rstrip()


if __name__ == "__main__":
    # The trainer imports this module under its own name, and meets the same classes there.
    from artifact_pipelines.sdk import main as start

    raise SystemExit(start())
