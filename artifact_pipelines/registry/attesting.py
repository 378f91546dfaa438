"""A model's provenance in the words of others: in-toto, SLSA and DSSE."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.registry.reading import Artifact

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:artifact-pipelines:training/v1"

_ARTIFACT: Final = "urn:artifact-pipelines:artifact:"
_POLICY: Final = "urn:artifact-pipelines:policy:"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is said of a model to other tools.

    Attributes:
        model: The model.
        files: Its files.
        parents: What it was made from, however far back.
        verdicts: What its gates said.
        moves: The leaves that pointed stages at it, as resources.
    """

    model: Artifact
    files: Sequence[FileEntry]
    parents: Sequence[Artifact]
    verdicts: Sequence[Verdict]
    moves: Sequence[dict[str, Any]] = ()

    def envelope(self, signer: SigningKey, origin: str) -> dict[str, Any]:
        """Return the in-toto statement in a DSSE envelope.

        The predicate is SLSA provenance: the training run is the build, its parameters and
        environment are the definition, the lineage is what it depended on, and what judged the
        model and moved stages to it are by-products.
        """
        payload = digest.canonical(self._statement(origin))
        signature = signer.sign(pre_authentication(PAYLOAD_TYPE, payload))
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}],
        }

    def _statement(self, origin: str) -> dict[str, Any]:
        model = self.model
        run = next(one for one in self.parents if one.kind is Kind.TRAINING_RUN)
        return {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": entry.path, "digest": {"sha256": entry.sha256}} for entry in self.files
            ],
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
                        for one in sorted(self.parents, key=lambda one: one.seq)
                    ],
                },
                "runDetails": {
                    "builder": {"id": f"urn:{origin.replace('/', ':')}"},
                    "metadata": {"invocationId": run.id, "startedOn": _seconds(run.published)},
                    "byproducts": [
                        {
                            "name": model.reference,
                            "uri": _ARTIFACT + model.id,
                            "digest": {"sha256": model.content},
                        },
                        *(
                            {
                                "name": f"gate {verdict.gate}",
                                "uri": _POLICY + verdict.policy,
                                "annotations": {"passed": verdict.passed},
                            }
                            for verdict in self.verdicts
                        ),
                        *self.moves,
                    ],
                },
            },
        }


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return what a DSSE signature is over."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def _seconds(time: str) -> str:
    """Return a time of the ledger to the second, as SLSA has it."""
    return time.partition(".")[0] + "Z"
