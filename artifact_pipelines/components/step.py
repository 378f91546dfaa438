"""A step and the assets that it makes, built from what they are.

Dagster's decorators read the same from each function's signature, which takes eight times as
long: a second of CPU in a location of two hundred projects.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]

_NOTHING = dg.In(dg.Nothing)
_ANYTHING = dg.In()


def assets_of(
    specs: Sequence[dg.AssetSpec],
    work: Callable[..., Results],
    *,
    name: str | None = None,
    config: type[dg.Config] | None = None,
    resources: Sequence[str] = ("registry",),
    inputs: Mapping[str, dg.AssetKey] | None = None,
    checks: Sequence[dg.AssetCheckSpec] = (),
    tags: Mapping[str, str] | None = None,
    pool: str | None = None,
) -> dg.AssetsDefinition:
    """Return assets that one step makes.

    Args:
        specs: The assets.
        work: What is done: it takes the context, and by name the resources, the inputs and,
            where there is one, `config`.
        name: The name of the step; that of its only asset, when left out.
        config: What a person may set when the step is launched.
        resources: The keys of the resources that it uses.
        inputs: The assets whose values it is given, by the name of the argument.
        checks: What is checked while it runs.
        tags: The tags of the step.
        pool: The pool that limits how many such steps run at once.
    """
    inputs = inputs or {}
    made = {spec.key for spec in specs}
    upstream = {dep.asset_key for spec in specs for dep in spec.deps} - made
    keys_by_input = {
        **inputs,
        **{key.to_python_identifier(): key for key in upstream - set(inputs.values())},
    }
    if len(specs) == 1:
        keys_by_output = {"result": specs[0].key}
    else:
        keys_by_output = {spec.key.to_python_identifier(): spec.key for spec in specs}
    checks_by_output = {check.get_python_identifier(): check for check in checks}

    def compute(context: dg.AssetExecutionContext, values: Mapping[str, Any]) -> Results:
        given = {key: getattr(context.resources, key) for key in resources}
        given |= {key: values[key] for key in inputs}
        if config is not None:
            given["config"] = config(**context.op_execution_context.op_config)
        yield from work(context, **given)

    outs = {
        output: dg.Out(
            dg.Nothing,
            description=spec.description,
            code_version=spec.code_version,
            is_required=not spec.skippable,
        )
        for output, spec in zip(keys_by_output, specs, strict=True)
    }
    node = dg.OpDefinition(
        compute,
        name=name or specs[0].key.to_python_identifier(),
        description=specs[0].description if len(specs) == 1 else None,
        ins={key: _ANYTHING if key in inputs else _NOTHING for key in keys_by_input},
        outs=outs | dict.fromkeys(checks_by_output, dg.Out(None)),
        config_schema=None if config is None else _schema(config),
        required_resource_keys=set(resources),
        tags=tags,
        pool=pool,
    )
    return dg.AssetsDefinition(
        node_def=node,
        keys_by_input_name=keys_by_input,
        keys_by_output_name=keys_by_output,
        check_specs_by_output_name=checks_by_output,
        specs=specs,
    )


@cache
def _schema(config: type[dg.Config]) -> Any:  # noqa: ANN401 (Dagster does not export its type)
    return config.to_config_schema()
