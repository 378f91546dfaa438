"""A project as its YAML declares it, checked field by field."""

import difflib
import importlib.util
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.gate import (
    FILES,
    GATE_FIELDS,
    GATES_BY_FORM,
    Custom,
    Gate,
    Limits,
    NoWorse,
    Onnx,
    Rows,
    Serving,
)
from artifact_pipelines.domain.keeping import Retention
from artifact_pipelines.domain.policy import Approvals, Contract, Policy, Select
from artifact_pipelines.errors import ArtifactError, ConfigurationError

ASSETS = ("training_run", "checkpoints", "candidate", "retention_plan", "cleanup", "archive")
DEFAULT_PROMOTION: Mapping[str, Any] = {"staging": "automatic", "production": {"approvals": 1}}

# Dagster puts the project into tags, which take no more.
_LONGEST_NAME = 63
_PLACE = re.compile(r" at (.+:\d+)`?$")
_PART = re.compile(r"[a-z_]+")
_FORM_OF_A_GATE = 2  # where pydantic puts which form of a gate it took
_CRON = re.compile(r"@(yearly|annually|monthly|weekly|daily|hourly)|\S+( +\S+){4}")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Dataset(BaseModel):
    """One dataset of a project: what loads it, and what its rows must be.

    Attributes:
        name: Its name.
        load: The function that returns it, as `module:function`: a pandas frame, a mapping of
            arrays, or the path of a file or folder.
        asset: A Dagster asset that it is taken from, as `group/name`, instead of a function;
            with a function, the asset only comes first.
        params: What the function is called with.
        schema_: Its Pandera schema, as `module:name`.
        expectations: Its Great Expectations suite, a JSON file.
        licence: Under what it may be used, as an SPDX expression.
        sensitivity: The kinds of sensitive data in it; an empty list says that there are none.
        sources: Where it comes from, each as a URI or as `uri` and `version`.
        owner: Who answers for it, as `team:name` or an e-mail address.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str
    load: str | None = Field(default=None, description="module:function that returns the rows")
    asset: str | None = Field(default=None, description="an existing Dagster asset, as group/name")
    params: dict[str, Any] = Field(
        default_factory=dict, description="what the function is called with"
    )
    schema_: str | None = Field(
        default=None, alias="schema", description="module:name of a Pandera schema"
    )
    expectations: str | None = Field(
        default=None, description="a Great Expectations suite, a JSON file"
    )
    licence: str | None = Field(default=None, description="an SPDX expression, such as CC-BY-4.0")
    sensitivity: list[str] | None = Field(
        default=None, description="kinds of sensitive data in it, [] for none"
    )
    sources: list[str | dict[str, str]] | None = Field(
        default=None, description="where it comes from: URIs, or uri and version"
    )
    owner: str | None = Field(
        default=None, description="who answers for it: team:name or an e-mail address"
    )

    @model_validator(mode="after")
    def _loadable(self) -> Self:
        """Refuse a dataset that comes from nowhere."""
        if self.load is None and self.asset is None:
            raise ValueError("a dataset needs load (module:function) or asset (group/name)")
        if self.load is None and self.params:
            raise ValueError("a dataset's params go to its load function, and it has none")
        return self


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole project.

    Attributes:
        name: The project.
        owners: Its owners, as `team:name` or e-mail addresses.
        datasets: Its datasets.
        train: The training function, as `module:function`.
        params: The training function's parameters.
        schedule: When to train again, as a cron line.
        pool: The Dagster pool that limits trainings.
        policy: What models must pass, who must agree and what is kept.
    """

    name: str
    owners: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    train: str
    params: Mapping[str, Any]
    schedule: str | None
    pool: str | None
    policy: Policy

    @property
    def training_sets(self) -> tuple[Dataset, ...]:
        """The datasets that training reads: all but the evaluation data, unless it is the only."""
        chosen = tuple(item for item in self.datasets if item.name != self.policy.evaluation)
        return chosen or self.datasets


def declare(
    fields: Mapping[str, Any], folders: Sequence[Path], place: str = "the project"
) -> Declaration:
    """Return the project that some fields declare.

    Args:
        fields: The fields of the component.
        folders: Where files that the project names are looked for, in this order.
        place: The YAML file, to name it in errors.

    Raises:
        ConfigurationError: A field is wrong; the sentence names the file, the field and what
            was expected.
    """
    try:
        return _declared(fields, folders)
    except ArtifactError as error:
        raise ConfigurationError(f"{place}: {error}") from error


def explained(error: BaseException, fields: Collection[str] = ()) -> ConfigurationError | None:
    """Return what is wrong with a project's YAML in one sentence, if that is what an error is.

    Args:
        error: What Dagster raised while it loaded a folder of projects.
        fields: The fields of a project.
    """
    places: list[str] = []
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ConfigurationError):
            return found
        if isinstance(found, yaml.MarkedYAMLError) and found.problem_mark is not None:
            at = found.context_mark or found.problem_mark
            context = f" {found.context}," if found.context else ""
            return ConfigurationError(
                f"{at.name}:{at.line + 1}: this is no YAML:{context} {found.problem}."
            )
        if isinstance(found, ValidationError):
            errors = found.errors()
            named = [_PLACE.search(str(one["loc"][0])) if one["loc"] else None for one in errors]
            if all(named) and not places:
                # Dagster writes the file and the line into the field's path.
                places = [match[1] for match in named if match]
            elif len(places) == len(errors):
                return _worst(errors, places, fields)
        found = found.__cause__ or found.__context__
    return None


def _worst(
    errors: Sequence[Any], places: Sequence[str], fields: Collection[str]
) -> ConfigurationError:
    """Return the error that says most: of a field that nobody knows, or else the deepest.

    What else is wrong there follows from it, or is about what a template would be.
    """
    pairs = [pair for pair in zip(errors, places, strict=True) if pair[0]["loc"][-1] != "str"]
    pairs = pairs or [(errors[0], places[0])]
    top = pairs[0][0]["loc"][0]
    one, place = min(
        (pair for pair in pairs if pair[0]["loc"][0] == top),
        key=lambda pair: (pair[0]["type"] != "extra_forbidden", -len(pair[0]["loc"])),
    )
    said = {"extra_forbidden": "there is no such field", "missing": "it is missing"}.get(
        one["type"], one["msg"].removeprefix("Value error, ")
    )
    if top == "promotion" and one["type"] == "literal_error":
        said = "expected automatic, best, or approvals with a number, such as {approvals: 1}"
    # Between the names of fields stand those of types, which nobody wrote.
    parts = [part for part in one["loc"] if isinstance(part, int) or _PART.fullmatch(part)]
    form = ""
    if parts[0] == "gates" and len(parts) > _FORM_OF_A_GATE:
        form = str(parts.pop(_FORM_OF_A_GATE))
    if one["type"] == "extra_forbidden":
        known = list(fields) if len(parts) == 1 else _fields_beside(parts, form)
        near = difflib.get_close_matches(str(parts[-1]), [*known, *(GATE_FIELDS if form else ())])
        said += f"; {near[0]!r} may be meant" if near else f"; expected one of {', '.join(known)}"
    field = ".".join(str(part) for part in parts)
    return ConfigurationError(f"{_line(place, parts)}: the field {field!r} is wrong: {said}.")


def _fields_beside(parts: Sequence[Any], form: str) -> list[str]:
    """Return the fields that may stand where an unknown one does."""
    tops: Mapping[Any, type[BaseModel]] = {
        "datasets": Dataset,
        "limits": Limits,
        "promotion": Approvals,
        "retention": Retention,
        "select": Select,
    }
    model = GATES_BY_FORM[form] if form else tops[parts[0]]
    for part in parts[1:-1]:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _line(place: str, parts: Sequence[Any]) -> str:
    """Return a place with the line of a field itself: Dagster names that of the topmost one."""
    file, _, line = place.rpartition(":")
    try:
        documents = list(yaml.compose_all(Path(file).read_text(encoding="utf-8")))
    except (OSError, UnicodeError, yaml.YAMLError):
        return place
    found = int(line)
    for document in documents:
        node, _ = _below(document, "attributes")
        for number, part in enumerate(parts):
            node, below = _below(node, part)
            # Of several projects in one file it is the one that Dagster's line is in.
            if below is None or (number == 0 and below != int(line)):
                break
            found = max(found, below)
    return f"{file}:{found}"


def _below(node: Any, part: Any) -> tuple[Any, int | None]:  # noqa: ANN401 (a YAML node)
    """Return what stands under a key or number of a YAML node, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None, None


def _declared(fields: Mapping[str, Any], folders: Sequence[Path]) -> Declaration:
    _field("name", lambda: check_project(fields["name"]))
    datasets: tuple[Dataset, ...] = tuple(fields["datasets"])
    stages = fields["promotion"]
    rules = {
        "evaluate": fields["evaluate"],
        "evaluation": fields["evaluation"],
        "select": fields["select"],
        "gates": [
            _with_files(number, gate, folders) for number, gate in enumerate(fields["gates"])
        ],
        "limits": fields.get("limits") or {},
        "promotion": DEFAULT_PROMOTION if stages is None else stages,
        "retention": fields["retention"],
        "contracts": {
            item.name: _contract(number, item, folders)
            for number, item in enumerate(datasets)
            if item.schema_ or item.expectations
        },
    }
    if [item.name for item in datasets] == [fields["evaluation"]]:
        rules["trains_on_evaluation"] = True
    policy = Policy.of(rules)
    if policy.asks_for_owners():
        # Elsewhere a new owner changes no policy, under which models would be judged again.
        policy = Policy.of({**rules, "owners": fields["owners"]})
    declared = Declaration(
        name=fields["name"],
        owners=tuple(fields["owners"]),
        datasets=datasets,
        train=fields["train"],
        params=dict(fields["params"]),
        schedule=fields["schedule"],
        pool=fields["pool"],
        policy=policy,
    )
    _check_datasets(declared)
    _check_values(declared)
    _check_functions(declared)
    _check_metrics(policy)
    for stage in policy.promotion:
        if stage in ASSETS or stage in {item.name for item in datasets}:
            raise ConfigurationError(
                f"the field 'promotion' names the stage {stage!r}, which is another asset's name; "
                "expected a name such as staging or production."
            )
    return declared


def check_project(name: str) -> None:
    """Refuse a name that a project's assets, jobs and tags cannot carry.

    Raises:
        InvalidNameError: The naming rules refuse it, or it is taken by the platform.
        ConfigurationError: It is too long for Dagster.
    """
    naming.check_own_project(name)
    if len(name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{name!r} cannot be used here; expected at most {_LONGEST_NAME} characters."
        )


def _check_datasets(declared: Declaration) -> None:
    names = [item.name for item in declared.datasets]
    if not names:
        raise ConfigurationError("the field 'datasets' is empty; expected at least one dataset.")
    for number, name in enumerate(names):
        where = f"datasets.{number}.name"
        _field(where, lambda name=name: naming.check_dataset(name))
        if name in ASSETS:
            raise ConfigurationError(
                f"the field {where!r} is {name!r}, the name of an asset that every project has; "
                "expected another name."
            )
        if names.count(name) > 1:
            raise ConfigurationError(
                f"the field {where!r} is {name!r}, which stands twice; expected names of their own."
            )
    evaluation = declared.policy.evaluation
    if evaluation is not None and evaluation not in names:
        raise ConfigurationError(
            f"the field 'evaluation' is {evaluation!r}; expected one of the datasets: "
            f"{', '.join(names)}."
        )


def _check_values(declared: Declaration) -> None:
    for number, owner in enumerate(declared.owners):
        _field(f"owners.{number}", lambda owner=owner: naming.check_owner(owner))
    for number, item in enumerate(declared.datasets):
        if item.owner is not None:
            _field(f"datasets.{number}.owner", lambda item=item: naming.check_owner(item.owner))
    if declared.schedule is not None and _CRON.fullmatch(declared.schedule.strip()) is None:
        raise ConfigurationError(
            f"the field 'schedule' is {declared.schedule!r}; expected a cron line of five fields, "
            "such as '0 3 * * *'."
        )
    params = {"params": declared.params} | {
        f"datasets.{number}.params": item.params for number, item in enumerate(declared.datasets)
    }
    for field, values in params.items():
        try:
            digest.canonical(dict(values))
        except ArtifactError as error:
            raise ConfigurationError(
                f"the field {field!r} is wrong: {error} Expected numbers, text, lists and "
                "mappings; a date stands in quotes."
            ) from error


def _check_functions(declared: Declaration) -> None:
    _check_function("train", declared.train)
    if declared.policy.evaluate is not None:
        _check_function("evaluate", declared.policy.evaluate)
    for number, gate in enumerate(declared.policy.gates):
        for field, path in _functions_of(gate).items():
            _check_function(f"gates.{number}.{field}", path)
    for number, item in enumerate(declared.datasets):
        if item.load is not None:
            _check_function(f"datasets.{number}.load", item.load)
        if item.schema_ is not None:
            _check_function(f"datasets.{number}.schema", item.schema_)


def _functions_of(gate: Gate) -> dict[str, str]:
    """Return the functions and objects that a gate names, by field."""
    match gate:
        case Custom():
            return {"gate": gate.gate}
        case Serving():
            return {"serving": gate.serving}
        case Onnx():
            return {"inputs": gate.inputs, "against": gate.against}
        case Rows(schema_=str(schema)):
            return {gate.name: gate.function, "schema": schema}
        case Rows():
            return {gate.name: gate.function}
        case _:
            return {}


def _check_function(field: str, path: str) -> None:
    """Refuse a function that is certainly not there, without importing what it needs."""
    if _FUNCTION.fullmatch(path) is None:
        raise ConfigurationError(
            f"the field {field!r} is {path!r}; expected module:name, such as churn.train:fit."
        )
    module, _, name = path.partition(":")
    text = _source(module)
    if text is None:
        raise ConfigurationError(
            f"the field {field!r} is {path!r}, but there is no module {module!r}; "
            "expected module:name of something that Python can import."
        )
    hidden = "import *" in text or "__getattr__" in text
    if text and not hidden and re.search(rf"\b{name}\b", text) is None:
        raise ConfigurationError(
            f"the field {field!r} is {path!r}, but the module {module!r} has no {name!r}; "
            "expected module:name of something that it defines."
        )


@cache
def _source(module: str) -> str | None:
    """Return the source of a module, nothing where it has none, or None where there is none."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    if found.origin is None or not found.origin.endswith(".py"):
        return ""
    try:
        return Path(found.origin).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ""


def _check_metrics(policy: Policy) -> None:
    """Refuse gates that contradict how the best checkpoint is chosen."""
    select = policy.select
    for number, gate in enumerate(policy.gates):
        if select is None or getattr(gate, "metric", None) != select.metric:
            continue
        if isinstance(gate, NoWorse) and gate.mode != select.mode:
            raise ConfigurationError(
                f"the field 'gates.{number}.mode' is {gate.mode!r}, but select.mode is "
                f"{select.mode!r} for the metric {gate.metric!r}; expected the same."
            )


def _contract(number: int, item: Dataset, folders: Sequence[Path]) -> Contract:
    if item.expectations is None:
        return Contract(schema=item.schema_)
    field = f"datasets.{number}.expectations"
    return Contract(
        schema=item.schema_, expectations=_suite(field, *_read(field, item.expectations, folders))
    )


def _with_files(number: int, gate: Any, folders: Sequence[Path]) -> Any:  # noqa: ANN401 (a gate)
    """Return a gate with the content of the files that it names."""
    content: dict[str, Any] = {}
    for name in FILES:
        named = gate.get(name) if isinstance(gate, Mapping) else getattr(gate, name, None)
        if isinstance(named, str):
            field = f"gates.{number}.{name}"
            file, found = _read(field, named, folders)
            content[name] = _suite(field, file, found) if name == "expectations" else found
    if not content:
        return gate
    written = gate if isinstance(gate, Mapping) else gate.model_dump(mode="json", by_alias=True)
    return {**written, **content}


def _read(field: str, name: str, folders: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """Return a JSON or YAML file that the project names, and the object in it."""
    places = [folder / name for folder in folders]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigurationError(
            f"the field {field!r} is {name!r}, which is no file in "
            f"{' or '.join(str(folder) for folder in folders)}."
        )
    try:
        text = file.read_text(encoding="utf-8")
        is_yaml = file.suffix in {".yaml", ".yml"}
        found = yaml.safe_load(text) if is_yaml else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"the field {field!r} names {file}, which cannot be read ({error!r}); expected "
            "JSON, or YAML in a .yaml file."
        ) from error
    if not isinstance(found, dict):
        raise ConfigurationError(
            f"the field {field!r} names {file}, which holds no object; expected a JSON object."
        )
    return file, found


def _suite(field: str, file: Path, suite: dict[str, Any]) -> dict[str, Any]:
    """Return a Great Expectations suite that expects something."""
    rules = suite.get("expectations")
    if not isinstance(rules, list) or not rules:
        raise ConfigurationError(
            f"the field {field!r} names {file}, which is no suite, or whose 'expectations' are "
            "empty; expected JSON with a list 'expectations'."
        )
    return suite


def _field(name: str, check: Any) -> None:  # noqa: ANN401 (a function without arguments)
    try:
        check()
    except ArtifactError as error:
        raise ConfigurationError(f"the field {name!r} is wrong: {error}") from error
