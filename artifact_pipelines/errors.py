"""Every error that this package raises on purpose, under one root."""

from collections.abc import Sequence


class ArtifactError(Exception):
    """An operation that was refused or failed, said in one sentence."""


# Names and formats


class InvalidNameError(ArtifactError, ValueError):
    """A name, reference or path that the naming rules refuse."""


class InvalidFormatError(ArtifactError, ValueError):
    """Bytes or values that are not what their format says."""


# Bytes


class DigestMismatchError(ArtifactError, ValueError):
    """Bytes whose digest is not the one they were asked for by.

    Attributes:
        what: The thing that was read.
        expected: The digest it should have had.
        actual: The digest it has.
    """

    def __init__(self, what: str, expected: str, actual: str) -> None:
        """Say which bytes differ."""
        super().__init__(f"{what} is damaged: expected digest {expected}, found {actual}.")
        self.what = what
        self.expected = expected
        self.actual = actual


class CorruptChunkError(DigestMismatchError):
    """A stored chunk whose bytes do not match its key.

    Attributes:
        pack: The pack that holds the chunk.
        key: The key of the chunk.
    """

    def __init__(self, pack: str, key: str, actual: str, why: str = "") -> None:
        """Say which chunk of which pack is damaged, and why where that is no digest."""
        super().__init__(f"chunk {key[:16]} in pack {pack}", key, actual)
        if why:
            self.args = (f"{self.what} is damaged: {why}",)
        self.pack = pack
        self.key = key


class QuarantinedError(ArtifactError, OSError):
    """Bytes that a scrub found damaged."""


class CodecError(InvalidFormatError):
    """Stored bytes that are not what their codec makes."""


class CorruptPackError(InvalidFormatError):
    """A stored pack that is not whole, or not the pack it is stored as.

    Attributes:
        pack: The pack.
        reason: What is wrong with it, as half a sentence.
    """

    def __init__(self, pack: str, reason: str) -> None:
        """Say which pack is damaged and how."""
        super().__init__(f"pack {pack} is damaged: {reason}.")
        self.pack = pack
        self.reason = reason


class StoreError(ArtifactError, OSError):
    """A store that could not be read or written."""


class MissingObjectError(StoreError, LookupError):
    """An object that the store does not hold."""

    def __init__(self, key: str) -> None:
        """Name the missing object."""
        super().__init__(f"the store has no object {key!r}.")
        self.key = key


class SourceError(ArtifactError, ValueError):
    """A file that was offered for storage and cannot be taken."""


class HomeError(ArtifactError, OSError):
    """A home directory that cannot carry a catalog or a store."""


# Facts


class UnknownArtifactError(ArtifactError, LookupError):
    """A reference that names nothing in the catalog."""


class AmbiguousReferenceError(ArtifactError, LookupError):
    """A reference that names more than one artifact."""


class QueryError(ArtifactError, ValueError):
    """A text that is no query.

    Attributes:
        place: Where it is wrong, counted in characters from 0.
    """

    def __init__(self, sentence: str, place: int) -> None:
        """Say what is wrong and where."""
        super().__init__(sentence)
        self.place = place


class ConflictError(ArtifactError):
    """An identity that is taken by other content."""


class GoneError(ArtifactError, LookupError):
    """An artifact whose bytes were removed on purpose."""


class SessionLostError(ArtifactError):
    """A writer whose lease ran out before it published."""


class MoveAbandonedError(ArtifactError):
    """A move of chunks that others got in the way of; nothing has changed."""

    def __init__(self, why: str) -> None:
        """Say what got in the way."""
        super().__init__(f"the move was abandoned: {why}; try again.")


class CatalogError(ArtifactError):
    """A catalog that cannot be opened, written or trusted."""


class BehindError(CatalogError):
    """A catalog that is older than what its store or signer has seen."""


# Proof


class LedgerError(ArtifactError):
    """A ledger, proof or tree head that does not verify."""


class GovernanceError(LedgerError):
    """A ledger leaf that the rules do not allow."""


class KeyGoneError(ArtifactError, LookupError):
    """Encrypted bytes whose key is not at hand, or was destroyed."""


class KeyMissingError(ArtifactError, LookupError):
    """A signing key that is not in the key folder or not registered."""


# Rules


class RefusedError(ArtifactError):
    """A change that the rules refuse.

    Attributes:
        reasons: Every rule that stands against it, one sentence each.
    """

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        """Say what was refused and why."""
        super().__init__(f"{what}: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)


class PromotionRefusedError(RefusedError):
    """A pointer move that the rules refuse."""


class HeldError(RefusedError):
    """Bytes that may not go, because something relies on them."""


class SchemaRefusedError(RefusedError):
    """A version of a schema that would leave consumers unable to read."""


class PlanRefusedError(RefusedError):
    """A retention plan that may not be approved or applied."""


class PolicyError(ArtifactError, ValueError):
    """A policy document that is not valid or not set."""


# People's code and configuration


class TrainerError(ArtifactError):
    """A trainer that raised, or gave nothing that can be registered."""


class WrongAnswerError(InvalidFormatError):
    """An answer of people's code that is not what it was asked for."""


class SandboxError(ArtifactError):
    """People's code that raised, hung, grew or died in the process that it ran in."""


class ConfigurationError(ArtifactError, ValueError):
    """A setting or project file that cannot be used as it stands."""
