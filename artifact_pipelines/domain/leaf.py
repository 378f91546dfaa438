"""One entry of the ledger.

The envelope is hashed into the tree and stays; the body it cites may be erased. A body
is sealed JSON: its fields and a salt, cited by the SHA-256 of its bytes. The bodies:

    log_create    origin, log_key, owner {name, public}
    key_register  statement {type: key, origin, name, public, roles}
    policy_set    statement {type: policy, origin, project, policy}
    publish       kind, project, name, step, attempt, version, content, object,
                  object_sha256, annex
    run_finish    project, name, outcome, reason
    run_resume    project, name
    verdict       statement {type: verdict, origin, project, artifact, gate, passed, policy,
                  baseline, evaluation, gate_code, reasons, values, evidence}
    request       project, stage, artifact, policy, pointer, author, reason
    approval      statement {type: approval, origin, project, stage, artifact, policy,
                  pointer, approver}
    promote       statement {type: pointer, origin, project, stage, artifact, previous,
                  pointer, policy, verdicts, approvals}
    rollback      statement {the same, original, reason}
    hold_place    project, name, reason
    hold_lift     project, name, reason
    recall        project, artifact, reason, descendants
    plan_made     project, plan
    plan_approve  project, approver
    plan_applied  project, forgotten, skipped
    forget        project, plan, rule, reason
    prune         pack, bytes, chunks
    tag           project, name, value
    annotate      project, text

A statement is text beside `key` and `signature` (see `signing`).
"""

from dataclasses import dataclass

from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.errors import InvalidFormatError

FORMAT = "artifact-pipelines/leaf/v1"


@dataclass(frozen=True, slots=True)
class Leaf:
    """The envelope of one state change.

    Attributes:
        seq: Its number, gap-free from 0, in commit order.
        time: When it was committed, RFC 3339 in UTC.
        actor: The pseudonym of whoever did it.
        action: What was done.
        subject: What it was done to.
        body: The SHA-256 of the sealed body.
    """

    seq: int
    time: str
    actor: str
    action: str
    subject: str
    body: str

    def encode(self) -> bytes:
        """Return the bytes of the envelope."""
        return digest.canonical(
            {
                "format": FORMAT,
                "seq": self.seq,
                "time": self.time,
                "actor": self.actor,
                "action": self.action,
                "subject": self.subject,
                "body": self.body,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Leaf":
        """Return the leaf that the bytes hold.

        Raises:
            InvalidFormatError: The bytes are no envelope of this format.
        """
        found = digest.parse(data)
        if found.pop("format", None) != FORMAT:
            raise InvalidFormatError("these bytes are not a leaf of a format known here.")
        try:
            return cls(**found)
        except TypeError as error:
            raise InvalidFormatError(f"a leaf is malformed: {error}.") from error

    @property
    def hash(self) -> bytes:
        """The leaf's hash in the tree."""
        return merkle.leaf_hash(self.encode())
