"""A model's provenance in the words of others: in-toto, SLSA and DSSE."""

import base64
from typing import Any, Final

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry.keys import SERVICE
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.reading import Artifact

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:artifact-pipelines:training/v1"

_ARTIFACT: Final = "urn:artifact-pipelines:artifact:"
_LEAF: Final = "urn:artifact-pipelines:leaf:"


class Attesting(Promoting):
    """The registry, as far as it vouches for models to other tools."""

    def provenance(self, reference: str) -> dict[str, Any]:
        """Return a model's in-toto statement in a DSSE envelope, signed by the service's key.

        The predicate is SLSA provenance: the training run is the build, its parameters and
        environment are the definition, the lineage is what it depended on, and the leaves that
        judged and promoted the model are by-products.

        Raises:
            UnknownArtifactError: The reference names no model.
        """
        model = self.find(reference)
        if model.kind is not Kind.MODEL:
            raise UnknownArtifactError(f"{reference} is no model; write one such as digits/v1.")
        payload = digest.canonical(self._statement(model))
        signer = self.keys.load(SERVICE)
        signature = signer.sign(pre_authentication(PAYLOAD_TYPE, payload))
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}],
        }

    def _statement(self, model: Artifact) -> dict[str, Any]:
        parents = {edge.parent.id: edge.parent for edge in self.lineage(model.id)}
        run = next(one for one in parents.values() if one.kind is Kind.TRAINING_RUN)
        files = [
            {"name": entry.path, "digest": {"sha256": entry.sha256}}
            for entry in self.files(model.id)
        ]
        return {
            "_type": STATEMENT_TYPE,
            "subject": files,
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "project": model.project,
                        "run": run.name,
                        "step": model.record.facts.get("step"),
                        "params": dict(run.record.params),
                    },
                    "internalParameters": {
                        "code": dict(run.record.code),
                        "lock": run.record.lock,
                    },
                    "resolvedDependencies": [
                        {
                            "name": one.reference,
                            "uri": _ARTIFACT + one.id,
                            "digest": {"sha256": one.content},
                        }
                        for one in sorted(parents.values(), key=lambda one: one.seq)
                    ],
                },
                "runDetails": {
                    "builder": {"id": f"urn:{self.origin.replace('/', ':')}"},
                    "metadata": {"invocationId": run.id, "startedOn": _seconds(run.published)},
                    "byproducts": [
                        {
                            "name": model.reference,
                            "uri": _ARTIFACT + model.id,
                            "digest": {"sha256": model.content},
                        },
                        *self._leaves(model),
                    ],
                },
            },
        }

    def _leaves(self, model: Artifact) -> list[dict[str, Any]]:
        """Return the leaves that judged the model and pointed stages at it, as resources."""
        found = [
            {
                "name": f"gate {verdict.gate}",
                "uri": f"urn:artifact-pipelines:policy:{verdict.policy}",
                "annotations": {"passed": verdict.passed},
            }
            for verdict in self.verdicts(model)
        ]
        for stage in sorted(self.policy(model.project).promotion):
            found += [
                {
                    "name": f"{move.action} to {stage}",
                    "uri": f"{_LEAF}{move.seq}",
                    "annotations": {"policy": move.policy, "time": move.time},
                }
                for move in self.history(model.project, stage)
                if move.model.id == model.id
            ]
        return found


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return what a DSSE signature is over."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def _seconds(time: str) -> str:
    """Return a time of the ledger to the second, as SLSA has it."""
    return time.partition(".")[0] + "Z"
