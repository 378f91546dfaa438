"""What other tools read about a model or run: a Hugging Face model card, OpenLineage events."""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

PRODUCER: Final = "https://pypi.org/project/artifact-pipelines/"
_RUN_EVENT: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACET: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"


def model_card(
    name: str,
    artifact: str,
    content: str,
    metrics: Mapping[str, float],
    datasets: Sequence[tuple[str, str | None]],
    origin: Sequence[str],
    *,
    evaluated: Mapping[str, float],
    evaluation: str,
) -> str:
    """Return a model card: what a Hub reads, then what people read.

    Args:
        name: The model's reference.
        artifact: Its artifact id.
        content: Its content digest.
        metrics: What its trainer measured; numbers that are not finite are left out.
        datasets: The datasets behind it, each with its licence.
        origin: The lines of its lineage as a tree.
        evaluated: What its gates measured.
        evaluation: The data that they measured it on.
    """
    finite, judged = (
        {key: value for key, value in sorted(found.items()) if math.isfinite(value)}
        for found in (metrics, evaluated)
    )
    head: dict[str, Any] = {"library_name": "artifact-pipelines", "tags": ["artifact-pipelines"]}
    licences = sorted({licence for _, licence in datasets if licence})
    if judged and evaluation:
        # What a trainer says of itself, on data of its own choice, is for people to read.
        results = [{"type": key, "name": key, "value": value} for key, value in judged.items()]
        task = {"type": "other", "name": "evaluation"}
        about = {"name": evaluation, "type": evaluation}
        result = {"task": task, "dataset": about, "metrics": results}
        head["model-index"] = [{"name": name, "results": [result]}]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {name}", "", "| | |", "|---|---|"]
    lines += [f"| artifact id | `{artifact}` |", f"| content digest | `{content}` |"]
    if licences:
        lines.append(f"| licences of its data | {', '.join(licences)} |")
    for title, found in (
        (f"Evaluated on {evaluation}", judged if evaluation else {}),
        ("Measured while it trained", finite),
    ):
        if found:
            lines += ["", f"## {title}", "", "| metric | value |", "|---|---|"]
            lines += [f"| {key} | {value:.6g} |" for key, value in found.items()]
    lines += ["", "## Data", ""]
    lines += [f"- {key}: {licence or 'licence unknown'}" for key, licence in datasets] or [
        "unknown"
    ]
    lines += ["", "## Origin", "", "```text", *origin, "```", ""]
    return "\n".join(lines)


def run_events(
    project: str,
    name: str,
    artifact: str,
    begun: str,
    ended: tuple[str, str] | None,
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Return the OpenLineage events of a training run.

    Args:
        project: The project.
        name: The run's name.
        artifact: Its artifact id, from which the id that OpenLineage wants follows.
        begun: When it began, RFC 3339.
        ended: When and how it ended, or nothing while it runs.
        inputs: The names and content digests of what it read.
        outputs: Those of what it made.
    """
    run = str(uuid.UUID(hex=artifact[:32], version=5))
    kinds = [("START", begun)]
    if ended is not None:
        kinds.append(("COMPLETE" if ended[1] == "finished" else "FAIL", ended[0]))
    return [
        {
            "eventType": kind,
            "eventTime": time,
            "producer": PRODUCER,
            "schemaURL": _RUN_EVENT,
            "run": {
                "runId": run,
                "facets": {
                    "artifact": {
                        "_producer": PRODUCER,
                        "_schemaURL": _FACET,
                        "id": artifact,
                        "name": name,
                    }
                },
            },
            "job": {"namespace": project, "name": "training_run", "facets": {}},
            "inputs": [_dataset(project, *one) for one in inputs],
            "outputs": [] if kind == "START" else [_dataset(project, *one) for one in outputs],
        }
        for kind, time in kinds
    ]


def _dataset(project: str, name: str, content: str) -> dict[str, Any]:
    version = {
        "_producer": PRODUCER,
        "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json",
        "datasetVersion": content,
    }
    return {"namespace": project, "name": name, "facets": {"version": version}}
