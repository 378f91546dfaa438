"""A project as its YAML declares it, checked field by field."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import ArtifactError, ConfigurationError

STAGES = ("staging", "production")
RESERVED = frozenset(
    {"training_run", "checkpoints", "candidate", "retention_plan", "cleanup", *STAGES}
)


class Dataset(BaseModel):
    """One dataset of a project.

    Attributes:
        name: Its name.
        load: The function that returns its rows, as `module:function`.
        params: What the function is called with.
        schema_: Its Pandera schema, as `module:name`.
        expectations: Its Great Expectations suite, a JSON file beside the project's module.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str
    load: str = Field(pattern=r"^[\w.]+:\w+$")
    params: dict[str, Any] = Field(default_factory=dict)
    schema_: str | None = Field(default=None, alias="schema", pattern=r"^[\w.]+:\w+$")
    expectations: str | None = None


class Declaration(BaseModel):
    """A whole project.

    Attributes:
        name: The project.
        owners: Its owners, as `team:name` or e-mail addresses.
        datasets: Its datasets.
        train: The training function, as `module:function`.
        params: The training function's parameters.
        schedule: When to train again, as a cron line.
        policy: What models must pass and what is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    owners: tuple[str, ...] = ()
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    train: str = Field(pattern=r"^[\w.]+:\w+$")
    params: dict[str, Any] = Field(default_factory=dict)
    schedule: str | None = None
    policy: Policy

    @property
    def training_sets(self) -> tuple[Dataset, ...]:
        """The datasets that training reads: all but the evaluation data."""
        return tuple(found for found in self.datasets if found.name != self.policy.evaluation)


def declare(fields: Mapping[str, Any], root: Path, place: str) -> Declaration:
    """Return the project that some fields declare.

    Args:
        fields: The fields of the component.
        root: The folder that relative files are found in.
        place: The file, to name it in errors.

    Raises:
        ConfigurationError: A field is wrong; the sentence names the file and the field.
    """
    own = {name: value for name, value in fields.items() if name in Declaration.model_fields}
    rules = {name: value for name, value in fields.items() if name not in own and value is not None}
    try:
        datasets = [Dataset.model_validate(dict(item)) for item in fields["datasets"]]
        rules["contracts"] = {
            item.name: _contract(item, root)
            for item in datasets
            if item.schema_ or item.expectations
        }
        declared = Declaration.model_validate(
            {**own, "datasets": datasets, "policy": Policy.of(rules)}
        )
        _check(declared)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{place}: the field {field!r} is wrong: {first['msg']}.") from error
    except ArtifactError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    return declared


def _check(declared: Declaration) -> None:
    naming.check_project(declared.name)
    names = [item.name for item in declared.datasets]
    for name in names:
        naming.check_dataset(name)
        if name in RESERVED:
            raise ConfigurationError(f"a dataset cannot be called {name!r}; that asset is taken.")
        if names.count(name) > 1:
            raise ConfigurationError(f"the dataset {name!r} is declared twice.")
    policy = declared.policy
    if policy.evaluation is not None and policy.evaluation not in names:
        raise ConfigurationError(
            f"evaluation names the dataset {policy.evaluation!r}, which is not among {names}."
        )
    for stage in policy.promotion:
        if stage not in STAGES:
            raise ConfigurationError(f"promotion names the stage {stage!r}; use one of {STAGES}.")


def _contract(item: Dataset, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"schema": item.schema_}
    if item.expectations is not None:
        file = root / item.expectations
        try:
            found["expectations"] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the expectations of {item.name!r} cannot be read from {item.expectations}: {error}."
            ) from error
    return found
