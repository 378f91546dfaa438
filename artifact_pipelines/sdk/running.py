"""A training run from its start to its end, its checkpoints, and what a stage serves."""

import contextlib
import operator
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsFloat

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import Input, Kind
from artifact_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    ConflictError,
    InvalidFormatError,
    TrainerError,
    UnknownArtifactError,
)
from artifact_pipelines.sdk.describing import training_facts
from artifact_pipelines.sdk.files import (
    files_of,
    load_tensors,
    plain_file,
    save_tensors,
    size_of,
    state_of,
)
from artifact_pipelines.sdk.machine import surroundings, threads, usage
from artifact_pipelines.sdk.opening import open_home, settings_of
from artifact_pipelines.sdk.provenance import (
    CODE_DIFF,
    Code,
    code_of,
    lock_file,
    main_file,
    packages,
    seeds_of,
)
from artifact_pipelines.sdk.repeating import DATASET_ROLE, ENVIRONMENT_FILE, repeated
from artifact_pipelines.sdk.saving import PENDING_BYTES, Buffers, Publisher, Saved
from artifact_pipelines.sdk.state import joined, read_state, split, write_state
from artifact_pipelines.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.reading import Artifact
    from artifact_pipelines.registry.signing_off import Proof

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
METRICS_FILE = "metrics.jsonl"

_MOST_LOGGED = 64 * 2**20  # bytes of metrics that wait for the next checkpoint

_REASON_LENGTH = 500


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that a run goes on from.

    Attributes:
        step: Its step.
        epoch: Its epoch, if it was given one.
        scheduler: The schedule's state; empty where none was saved.
        rng: The random generators' state; empty where none was saved.
        optimizer_form: The optimizer's state but for its arrays, where it is no flat mapping.
        reference: The checkpoint.
        folder: All of its files.
    """

    step: int
    epoch: float | None
    scheduler: Mapping[str, Any]
    rng: Mapping[str, Any]
    optimizer_form: Any
    reference: str
    folder: Path

    @cached_property
    def tensors(self) -> "Mapping[str, NDArray[Any]]":
        """The weights; empty where the checkpoint has no `model.safetensors`."""
        return load_tensors(self.folder / MODEL_FILE)

    @cached_property
    def optimizer(self) -> Any:  # noqa: ANN401 (whatever was saved)
        """The optimizer's state as it was passed; empty where none was saved."""
        return joined(self.optimizer_form, load_tensors(self.folder / OPTIMIZER_FILE))


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
        on_metrics: "Callable[[int, Mapping[str, float]], None] | None" = None,
        pending_bytes: int = PENDING_BYTES,
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
        self._on_metrics = on_metrics
        self._logged: list[bytes] = []
        self._logged_bytes = 0
        self._saved = {step_of(saved): saved for saved in view.checkpoints}
        self._point = self._saved[max(self._saved)] if self._saved else resume_from
        self._datasets: dict[str, Any] = {}
        self._publisher = Publisher(pending_bytes)
        self._buffers = Buffers(pending_bytes)
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
        """The checkpoints so far, by step; those that were handed over are waited for."""
        self._publisher.drain()
        return tuple(self._saved[step] for step in sorted(self._saved))

    @cached_property
    def resume(self) -> ResumePoint | None:
        """The checkpoint to go on from: the run's own newest, else the one it was started from."""
        return None if self._point is None else self._fetched(self._point)

    def resume_point(self, reference: str) -> ResumePoint:
        """Return another checkpoint to go on from.

        Raises:
            ConfigurationError: The reference names no checkpoint.
        """
        found = _base(self._registry, reference)
        if self._point is not None and found.id == self._point.id and self.resume is not None:
            return self.resume
        return self._fetched(found)

    def _fetched(self, point: "Artifact") -> ResumePoint:
        folder = self._registry.fetch(point.id, self.workdir / "resume" / point.id)
        state = read_state(folder / STATE_FILE, point.reference)
        return ResumePoint(
            step=step_of(point),
            epoch=state.get("epoch"),
            scheduler=state.get("scheduler") or {},
            rng=state.get("rng") or {},
            optimizer_form=state.get("optimizer"),
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

    def log(self, metrics: Mapping[str, SupportsFloat], *, step: int) -> None:
        """Report numbers between checkpoints.

        They are shown where the run is followed, and kept in the `metrics.jsonl` of the next
        checkpoint; what no checkpoint follows is shown alone. Of more than 64 MiB between two
        checkpoints every other line is kept.

        Raises:
            TrainerError: A value is no number.
            ConflictError: The run is complete.
        """
        self._check_open()
        step = _whole("step", step)
        numbers = _numbers(f"{self.reference}@{step}", metrics)
        line = digest.canonical({"step": step, "metrics": numbers})
        self._logged.append(line)
        self._logged_bytes += len(line) + 1
        if self._logged_bytes > _MOST_LOGGED:
            self._logged = self._logged[::2]
            self._logged_bytes = sum(len(one) + 1 for one in self._logged)
        if self._on_metrics is not None:
            self._on_metrics(step, numbers)

    def checkpoint(
        self,
        tensors: Any,  # noqa: ANN401 (any framework's)
        *,
        step: int,
        metrics: Mapping[str, SupportsFloat] | None = None,
        epoch: float | None = None,
        optimizer: Any = None,  # noqa: ANN401 (as above)
        scheduler: Any = None,  # noqa: ANN401 (as above)
        rng: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path | bytes] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Hand a checkpoint over and return before it is registered; the same one twice is one.

        Arrays are copied before this returns, so that training may go on to change them. Files
        that are passed by path are registered before it returns. An error is raised by the
        next call, by `Saved.wait` or at the end of the run, whichever comes first.

        Args:
            tensors: The weights by name, NumPy's or PyTorch's; an object with a `state_dict`;
                or a file or folder that is taken as it is; nothing where `files` are all.
            step: The number of steps taken.
            metrics: Numbers by name; NaN and the infinities are recorded as such.
            epoch: The number of epochs, whole or in part.
            optimizer: The optimizer, or its state: nested mappings, lists, numbers and arrays.
            scheduler: The schedule, or its state of the same types.
            rng: The random generators' state, of the same types.
            files: More files by path.
            about: What else is known: `optimizer`, `precision`, `parallel`, and under `holds`
                which of `optimizer`, `scheduler` and `rng` are in files taken as they are.

        Raises:
            TrainerError: A value cannot be saved.
            SourceError: A file cannot be read.
            ConflictError: The run is complete, or an earlier step has other content.
        """
        self._check_open()
        step = _whole("step", step)
        what = f"checkpoint {self.reference}@{step}"
        as_is = tensors is None or isinstance(tensors, str | Path)
        weights = {} if as_is else state_of(tensors)
        arrays, form = split(state_of(optimizer))
        size = size_of(weights) + size_of(arrays)
        self._publisher.reserve(size)
        try:
            content: Mapping[str, Path | bytes] = {}
            if not as_is:
                content = {MODEL_FILE: save_tensors(what, weights, self._buffers.take)}
            elif tensors is not None:
                content = files_of(Path(tensors))
            added: dict[str, Path | bytes] = {}
            if arrays:
                added[OPTIMIZER_FILE] = save_tensors(
                    f"the optimizer of {what}", arrays, self._buffers.take
                )
            schedule = state_of(scheduler)
            if not as_is or form is not None or schedule is not None or rng is not None:
                state = {"step": step, "epoch": epoch, "scheduler": schedule, "rng": rng}
                optional = {} if form is None else {"optimizer": form}
                added[STATE_FILE] = write_state(what, state | optional)
            if self._logged:
                added[METRICS_FILE] = b"".join(line + b"\n" for line in self._logged)
            _add_files(what, content, added, files or {})
            facts = {
                "metrics": _numbers(what, metrics or {}),
                "epoch": epoch,
                **_held(about or {}, optimizer=optimizer, scheduler=scheduler, rng=rng),
            }
            training = training_facts(tensors, weights, optimizer, scheduler, about or {})
            if training:
                facts["training"] = training
            job = Job(step, {**content, **added}, facts)
        except BaseException:
            self._publisher.release(size)
            raise
        self._logged, self._logged_bytes = [], 0
        saved = Saved(f"{self.reference}@{step}", step)
        self._publisher.hand_over(saved, partial(self._publish, job), size)
        if any(isinstance(source, Path) for source in job.files.values()):
            # The trainer may write to its files, or remove them, as soon as this returns.
            saved.wait()
        return saved

    def _publish(self, job: "Job") -> "Artifact":
        there = self._saved.get(job.step)
        saved = self._registry.publish_checkpoint(
            self.artifact,
            job.files,
            step=job.step,
            facts=job.facts,
            inputs=self._parent(job.step) if there is None else there.record.inputs,
            attempt=1 if there is None else there.record.attempt,
        )
        self._saved[job.step] = saved
        if self._on_checkpoint is not None:
            self._on_checkpoint(saved)
        return saved

    def check_saved(self) -> None:
        """Wait until every checkpoint is registered, and refuse a run without any.

        Raises:
            ArtifactError: One could not be registered.
            TrainerError: There is none.
        """
        self._publisher.drain()
        if not self._saved:
            raise TrainerError(
                f"the run {self.reference} saved no checkpoint; "
                "call run.checkpoint(…) at least once."
            )

    def close(self) -> None:
        """Take no more checkpoints, and register those that were handed over."""
        self._closed = True
        self._publisher.close()
        self._buffers.close()

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
            item.role.removeprefix(DATASET_ROLE): item.id
            for item in self.artifact.record.inputs
            if item.role.startswith(DATASET_ROLE)
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
            return load_tensors(folder / "data.safetensors")
        return folder


@dataclass(frozen=True, slots=True)
class Job:
    """A checkpoint on its way to the registry."""

    step: int
    files: Mapping[str, Path | bytes]
    facts: Mapping[str, Any]


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
        proof: That the pointer leaf is in the signed log.
    """

    reference: str
    model: str
    id: str
    content: str
    metrics: Mapping[str, float]
    seq: int
    pending: bool
    proof: "Proof"
    _settings: Settings

    def fetch(self, to: str | Path) -> Path:
        """Return the folder, with the model's files written to it and verified."""
        with open_home(self._settings) as registry:
            return registry.fetch(self.id, Path(to))


def resolve(reference: str, *, home: str | Path | None = None) -> Resolved:
    """Return what a stage such as `digits@production` serves, proven by the signed log.

    Raises:
        UnknownArtifactError: The stage serves nothing.
        LedgerError: The log does not prove what the catalog says.
    """
    settings = settings_of(home)
    with open_home(settings, make=False) as registry:
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
        proof=proven.proof,
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
    seeds: Mapping[str, int] | None = None,
    home: str | Path | None = None,
    reuse: bool = False,
    pending_bytes: int = PENDING_BYTES,
) -> Iterator[Run]:
    """Yield a training run, begun now or interrupted before.

    The run has finished when the block ends, and failed when the block raises.

    Args:
        project: The project.
        name: The run's name; the time in UTC when left out.
        params: What the training depends on beside code and data. Where the home knows what
            the project declares, those left out are as declared, and unknown ones are refused.
        inputs: References of datasets, such as `digits/images@latest`; as a mapping, by the
            name under which `Run.dataset` finds them.
        resume_from: The reference of another run's checkpoint to go on from.
        seeds: Seeds by what they are for; parameters called `seed` are found by themselves.
        home: The home of the registry; `ARTIFACT_PIPELINES_HOME` when left out.
        reuse: Whether to yield a complete run too, with `Run.complete` true.
        pending_bytes: How many bytes of checkpoints may wait to be registered before
            `Run.checkpoint` waits; one that is larger waits alone.

    Raises:
        ConfigurationError: The project declares no such parameter, or declares it as a number.
        ConflictError: The run is complete, was begun with other parameters or inputs, or is
            being trained by another process.
        TrainerError: The block saved no checkpoint.
    """
    request = Request(project, name, params or {}, inputs, resume_from, seeds or {})
    recorded = repeated(project, name)
    if recorded is not None:
        request = replace(request, **recorded)
    with running(
        request,
        settings_of(home),
        complete=recorded is None,
        reuse=reuse,
        pending_bytes=pending_bytes,
    ) as run:
        yield run


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to be."""

    project: str
    name: str | None
    params: Mapping[str, Any]
    inputs: Sequence[str] | Mapping[str, str]
    resume_from: str | None
    seeds: Mapping[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def running(
    request: Request,
    settings: Settings,
    *,
    complete: bool = False,
    reuse: bool = False,
    code: Code | None = None,
    annex: Mapping[str, Any] | None = None,
    on_checkpoint: "Callable[[Artifact], None] | None" = None,
    on_metrics: "Callable[[int, Mapping[str, float]], None] | None" = None,
    pending_bytes: int = PENDING_BYTES,
) -> Iterator[Run]:
    """Yield a run as `start_run` does, with what the caller knows better than this process.

    With `complete`, parameters that are left out are those that the project declares.
    """
    with contextlib.ExitStack() as stack:
        # What a run is made from is not in a home that is only being made.
        make = not request.inputs and request.resume_from is None
        registry = stack.enter_context(open_home(settings, make=make))
        if complete:
            request = replace(request, params=_completed(registry, request))
        base = None if request.resume_from is None else _base(registry, request.resume_from)
        code = code_of(main_file(), None) if code is None else code
        installed = packages()
        files: dict[str, Path | bytes] = {ENVIRONMENT_FILE: lock_file(installed)}
        if code.diff is not None:
            files[CODE_DIFF] = code.diff
        facts = {
            "packages": installed,
            "seeds": seeds_of(request.params, request.seeds),
            "threads": threads(),
        }
        _check_params(request.params)
        artifact = registry.start_run(
            request.project,
            request.name or f"run-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}",
            params=request.params,
            inputs=[
                *_datasets(registry, request.inputs),
                *([] if base is None else [Input("resume", base.id)]),
            ],
            code=code.facts,
            files=files,
            facts=facts,
            annex={**surroundings(), "repository": code.origin, **(annex or {})},
        )
        stack.enter_context(registry.sole_trainer(artifact))
        workdir = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="artifact-pipelines-", ignore_cleanup_errors=True)
        )
        run = Run(
            registry,
            artifact,
            Path(workdir),
            resume_from=base,
            on_checkpoint=on_checkpoint,
            on_metrics=on_metrics,
            pending_bytes=pending_bytes,
        )
        if run.complete:
            if not reuse:
                raise ConflictError(_complete(run.reference))
            yield run
            return
        try:
            yield run
            run.check_saved()
        except BaseException as error:
            run.close()
            try:
                registry.finish_run(artifact, "failed", _reason(error), annex=usage())
            except Exception as second:  # noqa: BLE001 (the trainer's own error is the one to see)
                error.add_note(f"That the run failed could not be recorded: {second}")
            raise
        finally:
            run.close()
        registry.finish_run(artifact, "finished", annex=usage())


def _completed(registry: "Registry", request: Request) -> Mapping[str, Any]:
    """Return the parameters of a run, those left out as its project declares them.

    A run that has begun goes on with those that it began with.
    """
    outline = registry.outline(request.project)
    if outline is None:
        return request.params
    outline.check(request.project, request.params, ())
    known: Mapping[str, Any] = outline.params
    if request.name is not None:
        with contextlib.suppress(UnknownArtifactError):
            known = registry.run(request.project, request.name).artifact.record.params
    return {**known, **request.params}


def _complete(reference: str) -> str:
    return (
        f"the run {reference} is complete; a run name trains once, so choose a new name, "
        "or pass reuse=True and look at Run.complete."
    )


def _reason(error: BaseException) -> str:
    sentence = str(error) if isinstance(error, ArtifactError) else named(error)
    return sentence[:_REASON_LENGTH]


def named(error: BaseException) -> str:
    """Return an exception's type and message on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


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
    return [Input(f"{DATASET_ROLE}{role}", artifact) for role, artifact in named.items()]


def _base(registry: "Registry", reference: str) -> "Artifact":
    found = registry.find(reference)
    if found.kind is not Kind.CHECKPOINT:
        hint = f"{found.reference}@latest" if found.kind is Kind.TRAINING_RUN else "digits/run-1@40"
        raise ConfigurationError(
            f"{reference!r} is a {found.kind.replace('_', ' ')}, not a checkpoint; "
            f"resume from a checkpoint such as {hint}."
        )
    return found


def _add_files(
    what: str,
    content: Mapping[str, Path | bytes],
    added: dict[str, Path | bytes],
    files: Mapping[str, str | Path | bytes],
) -> None:
    """Add the files that a trainer passed beside a checkpoint's own."""
    for path, source in files.items():
        if path in added:
            raise TrainerError(f"{what} has two files {path!r}; rename one.")
        added[path] = source if isinstance(source, bytes) else plain_file(Path(source))
    twice = sorted(content.keys() & added.keys())
    if twice:
        raise TrainerError(f"{what} has two files {twice[0]!r}; rename one.")


def _held(about: Mapping[str, Any], **parts: object) -> dict[str, bool]:
    """Return which parts of the training's state a checkpoint holds."""
    return {
        name: part is not None or name in about.get("holds", ()) for name, part in parts.items()
    }


def _numbers(what: str, metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    numbers = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TrainerError(f"{what}: the metric {name!r:.80} must be named by a text.")
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise TrainerError(
                f"{what}: the metric {name!r} is {value!r:.80}, not a number."
            ) from error
    return numbers


def _check_params(params: Mapping[str, Any]) -> None:
    """Refuse parameters that no record holds, by name."""
    for name, value in params.items():
        try:
            digest.canonical({name: value})
        except InvalidFormatError as error:
            raise TrainerError(f"the parameter {name!r:.80} cannot be recorded: {error}") from error


def _whole(what: str, value: object) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type] # what it refuses is the point
    except TypeError:
        pass
    raise TrainerError(f"the {what} must be a whole number, not {value!r}.")


def step_of(checkpoint: "Artifact") -> int:
    """Return the step of a checkpoint."""
    if checkpoint.step is None:
        raise TrainerError(f"{checkpoint.reference} has no step.")
    return checkpoint.step
