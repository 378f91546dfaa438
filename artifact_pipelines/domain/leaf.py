"""One entry of the ledger.

The envelope is hashed into the tree and stays; the body it cites may be erased. A body
is sealed JSON: its fields and a salt, cited by the SHA-256 of its bytes. The bodies:

    log_create    origin, log_key, owner {name, public}
    key_register  statement {type: key, origin, name, public, roles}
    key_revoke    statement {type: revocation, origin, name, key, reason}
    key_rotate    statement {type: rotation, origin, name, key, public, reason}
    log_rotate    statement {type: log_key, origin, public, reason}
    policy_set    statement {type: policy, origin, project, policy, gates, nonce}
    schema_register  statement {type: schema, origin, project, name, version, layout, mode}
    publish       kind, project, name, step, attempt, version, content, object,
                  object_sha256, annex
    run_finish    project, name, outcome, reason, annex
    run_resume    project, name
    run_plan      project, plan, runs {name: params}, inputs, resume_from
    run_withdraw  project, name, reason
    verdict       statement {type: verdict, origin, project, artifact, gate, passed, policy,
                  baseline, evaluation, gate_code, reasons, values, evidence}
    request       project, stage, artifact, policy, pointer, author, reason
    approval      statement {type: approval, origin, project, stage, artifact, policy,
                  pointer, approver}
    promote       statement {type: pointer, origin, project, stage, artifact, previous,
                  pointer, policy, verdicts, approvals}
    rollback      statement {the same, original, reason}
    hold_place    project, name, reason, inputs
    hold_lift     project, name, reason
    recall        project, artifact, reason, descendants
    plan_made     project, plan, page
    plan_approve  project, approver
    plan_applied  project, forgotten, slimmed, archived, skipped
    forget        project, plan, rule, reason, approver
    archive       project
    restore       project
    slim          project, files, plan, rule, reason
    scope_create  project, scope
    scope_shred   project, scope, reason
    quarantine    project, chunks [[key, pack, what], …]
    heal          project, chunks [key, …]
    prune         pack, bytes, chunks
    alarm         differences
    drill         project, ok, tier, size, problems; loaded, or stage and seconds
    tag           project, name, value, reason
    annotate      project, text, reason
    alias_set     project, name, artifact or null, reason
    banner_set    project, text or null, reason
    erase         what, reason
    declare       project, parent, role, kind, how

A statement is text beside `key` and `signature` (see `signing`).
"""

import re
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final, Self

from artifact_pipelines.domain import digest, merkle, naming
from artifact_pipelines.errors import InvalidFormatError

FORMAT: Final = "artifact-pipelines/leaf/v1"

_TIME: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"
)
_ACTOR: Final = re.compile(r"[0-9a-f]{16,64}")
_ACTION: Final = re.compile(r"[a-z][a-z_]{0,63}")
_SUBJECT: Final = re.compile(r"[!-~]{1,300}")
_PATTERNS: Final = {"time": _TIME, "actor": _ACTOR, "action": _ACTION}
_FIELDS: Final = frozenset({"format", "seq", "time", "actor", "action", "subject", "body"})


@dataclass(frozen=True, slots=True)
class Leaf:
    """The envelope of one state change.

    Attributes:
        seq: Its number, gap-free from 0, in commit order.
        time: When it was committed, RFC 3339 in UTC to the microsecond.
        actor: The pseudonym of whoever did it, in hexadecimal.
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
    _encoded: bytes = field(init=False, repr=False)
    # Not a field, so that `dataclasses.replace` does not carry old bytes over.
    stored: InitVar[bytes | None] = None

    def __post_init__(self, stored: bytes | None) -> None:
        """Refuse what no envelope may say."""
        if type(self.seq) is not int or not 0 <= self.seq <= digest.MAX_INTEGER:
            raise InvalidFormatError(f"a leaf must be numbered from 0, not {self.seq!r}.")
        # The subject alone is new with every leaf: the rest is looked up.
        for name, value in (("time", self.time), ("actor", self.actor), ("action", self.action)):
            if not _is_valid(name, value):
                raise InvalidFormatError(f"leaf {self.seq} has no valid {name}: {value!r}.")
        if not naming.matches(_SUBJECT, self.subject):
            raise InvalidFormatError(f"leaf {self.seq} has no valid subject: {self.subject!r}.")
        if not digest.is_sha256(self.body):
            digest.check_sha256(self.body, f"the body of leaf {self.seq}")
        object.__setattr__(self, "_encoded", stored or self._canonical())

    def _canonical(self) -> bytes:
        """Return the envelope as canonical JSON; only the subject may hold what is escaped."""
        return (
            f'{{"action":"{self.action}","actor":"{self.actor}","body":"{self.body}",'
            f'"format":"{FORMAT}","seq":{self.seq},"subject":{encode_basestring_ascii(self.subject)},'
            f'"time":"{self.time}"}}'
        ).encode()

    def encode(self) -> bytes:
        """Return the bytes of the envelope."""
        return self._encoded

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the leaf that the bytes hold, with these bytes behind its hash.

        Raises:
            InvalidFormatError: The bytes are no envelope of this format.
        """
        found = digest.parse(data)
        if found.keys() != _FIELDS or found.pop("format") != FORMAT:
            raise InvalidFormatError(f"a leaf must be of format {FORMAT!r}.")
        return cls(**found, stored=data)

    @property
    def hash(self) -> bytes:
        """The leaf's hash in the tree."""
        return merkle.leaf_hash(self._encoded)


def _is_valid(name: str, value: object) -> bool:
    return isinstance(value, str) and _fits(name, value)


@lru_cache(maxsize=1024)
def _fits(name: str, value: str) -> bool:
    return naming.matches(_PATTERNS[name], value)
