"""A dataset as an asset: loaded, held against its contract, registered."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.declaration import Dataset
from artifact_pipelines.components.project import Project, dagster_annex
from artifact_pipelines.components.step import Results, assets_of
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Contract
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import SandboxError
from artifact_pipelines.gates import data
from artifact_pipelines.gates.jobs import load_function
from artifact_pipelines.gates.sandbox import Sandbox
from artifact_pipelines.resources import RegistryResource
from artifact_pipelines.sdk.datasets import Content, content_of, declared_facts
from artifact_pipelines.sdk.machine import surroundings

_CHECKS = {
    "schema": "The rows are what the Pandera schema says.",
    "expectations": "The rows meet the Great Expectations suite.",
}


class DatasetConfig(dg.Config):
    """What a dataset is loaded with this time.

    Attributes:
        params: Parameters that replace those of the YAML, one by one.
    """

    params: dict[str, Any] = {}  # noqa: RUF012 (Dagster copies it)


def dataset_asset(project: Project, item: Dataset) -> dg.AssetsDefinition:
    """Return the asset of a dataset."""
    key = project.key(item.name)
    contract = project.declared.policy.contracts.get(item.name)
    wanted = {"schema": item.schema_, "expectations": item.expectations}
    checks = [
        dg.AssetCheckSpec(name, asset=key, blocking=True, description=text)
        for name, text in _CHECKS.items()
        if wanted[name]
    ]
    upstream = None if item.asset is None else dg.AssetKey.from_user_string(item.asset)
    taken = upstream if item.load is None else None

    def register(
        context: dg.AssetExecutionContext,
        registry: RegistryResource,
        config: DatasetConfig,
        value: Any = None,  # noqa: ANN401 (what the upstream asset is)
    ) -> Results:
        params = {**item.params, **config.params}
        if item.load is not None:
            value = _loaded(project, item, item.load, params)
        with project.opened(registry) as opened, content_of(value, key.path[-1]) as content:
            if contract is not None:
                yield from _held_to(project, item, content)
            source = {"load": item.load, "params": params} if item.load else {"asset": item.asset}
            facts = declared_facts(item.licence, item.sensitivity, item.sources, item.owner)
            found = opened.publish_dataset(
                project.name,
                item.name,
                content.files,
                facts={**content.facts, **source, **facts},
                annex={**surroundings(), **dagster_annex(context)},
            )
            context.log.info("%s is registered", found.reference)
            yield dg.MaterializeResult(
                asset_key=key,
                metadata={
                    **reports.of_dataset(found),
                    "params": dg.MetadataValue.json(digest.parse(digest.canonical(params))),
                },
                data_version=dg.DataVersion(found.content),
            )

    spec = dg.AssetSpec(
        key,
        deps=[] if upstream is None else [upstream],
        code_version=_code_version(item),
        kinds={"dataset"},
        description=f"The registered versions of the dataset {item.name}.",
        **project.common() | ({} if item.owner is None else {"owners": [item.owner]}),
    )
    return assets_of(
        [spec],
        register,
        config=DatasetConfig,
        inputs={} if taken is None else {"value": taken},
        checks=checks,
    )


def _loaded(project: Project, item: Dataset, load: str, params: Mapping[str, Any]) -> Any:  # noqa: ANN401 (the loader decides)
    project.make_importable()
    function = load_function(load)
    try:
        return function(**params)
    except Exception as error:
        raise dg.Failure(
            f"the dataset {project.name}/{item.name} was not loaded: {load} raised "
            f"{type(error).__name__}: {error}",
            allow_retries=False,
        ) from error


def _held_to(project: Project, item: Dataset, content: Content) -> Iterator[dg.AssetCheckResult]:
    """Yield what the contract says of the rows; a breach stops the step before they are kept."""
    contract = project.declared.policy.contracts[item.name]
    reference = f"{project.name}/{item.name}"
    if content.frame is None:
        raise dg.Failure(
            f"{reference} has a schema or expectations, but was loaded without a table; return a "
            "pandas frame.",
            allow_retries=False,
        )
    breached: list[str] = []
    for finding in _findings(project, item, content, contract):
        yield dg.AssetCheckResult(
            asset_key=project.key(item.name),
            check_name=finding.gate.removeprefix(f"{item.name}_"),
            passed=finding.passed,
            description="; ".join(finding.reasons),
            metadata=reports.of_finding(finding),
        )
        if not finding.passed:
            breached += finding.reasons
    if breached:
        raise dg.Failure(
            f"no version of {reference} was registered, because its rows break their contract: "
            f"{'; '.join(breached)}",
            allow_retries=False,
        )


def _findings(
    project: Project, item: Dataset, content: Content, contract: Contract
) -> list[Finding]:
    """Return what a contract says of the rows, looked at in a process of its own."""
    limits = project.declared.policy.limits
    (file,) = content.files.values()
    try:
        with Sandbox(limits.seconds, limits.memory) as sandbox:
            return data.sandboxed(sandbox, item.name, Path(str(file)).parent, contract)
    except SandboxError as error:
        raise dg.Failure(
            f"no version of {project.name}/{item.name} was registered: {error}",
            allow_retries=False,
        ) from error


def _code_version(item: Dataset) -> str:
    document = item.model_dump(mode="json", by_alias=True)
    return digest.sha256(digest.canonical(document))[:12]
