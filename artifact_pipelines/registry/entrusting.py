"""Whose signature counts: keys are registered, rotated and revoked, signed by an owner."""

from collections.abc import Sequence
from typing import Any

from artifact_pipelines.domain import governance, naming
from artifact_pipelines.domain.signing import PublicKey, SigningKey
from artifact_pipelines.errors import KeyMissingError, PolicyError
from artifact_pipelines.registry import deciding
from artifact_pipelines.registry.deciding import RegisteredKey
from artifact_pipelines.registry.keys import LOG, OWNER
from artifact_pipelines.registry.signing_off import SigningOff


class Entrusting(SigningOff):
    """The registry, as far as keys are trusted."""

    def key_list(self) -> list[RegisteredKey]:
        """Return the registered keys by name, those that were revoked among them."""
        return self.catalog.read(deciding.registered_keys)

    def log_key_list(self) -> list[RegisteredKey]:
        """Return the keys of the tree heads, the one in force last."""
        known = self.catalog.read(deciding.log_keys)
        ends = [*(seq for seq, _ in known[1:]), None]
        return [
            RegisteredKey(LOG, PublicKey.from_hex(public).key_id, (LOG,), public, end)
            for (_, public), end in zip(known, ends, strict=True)
        ]

    def create_key(self, name: str, roles: Sequence[str] = ("approver",)) -> RegisteredKey:
        """Make a key in the key folder and register it, signed by the owner."""
        if name == LOG:
            raise PolicyError("'log' is the key of the tree heads; choose another name.")
        key = self.keys.create(name)
        return self.register_key(name, key.public, roles)

    def register_key(self, name: str, public: PublicKey, roles: Sequence[str]) -> RegisteredKey:
        """Register a public key under a name with its roles; again is once."""
        naming.check_key(name)
        unknown = sorted(set(roles) - set(governance.ROLES))
        if unknown or not roles:
            raise PolicyError(
                f"the role {', '.join(unknown) or '(none)'} is not one of {governance.ROLES}."
            )
        asked = RegisteredKey(name, public.key_id, tuple(sorted(roles)), public.hex)
        for known in self.key_list():
            if known == asked:
                return known
            if public.hex == known.public or (name == known.name and known.revoked is None):
                raise PolicyError(
                    f"the key {known.name!r} is registered already, with other parts."
                )
        self._say("key_register", name, "key", public=public.hex, roles=sorted(roles), name=name)
        return asked

    def rotate_key(
        self, name: str, public: PublicKey | None = None, reason: str = ""
    ) -> RegisteredKey:
        """Put a new key in a registered key's place, with its name and roles.

        The new key is made in the key folder, unless the public half of one that is kept
        elsewhere is given. A rotation that was interrupted is finished.

        Raises:
            KeyMissingError: No key of this name is in force.
        """
        former = self._in_force(name)
        fresh = self.keys.prepare(name).public if public is None else public
        if former.id == fresh.key_id:
            # Whoever began this rotation did not end it.
            former = [key for key in self.key_list() if key.name == name][-2]
        else:
            self._say(
                "key_rotate",
                name,
                "rotation",
                name=name,
                key=former.id,
                public=fresh.hex,
                reason=reason,
            )
        if public is None:
            self.keys.adopt(name, former.public)
        return self._in_force(name)

    def rotate_log_key(self, reason: str = "") -> PublicKey:
        """Have every tree head from now on signed by a new key, and sign one with it."""
        fresh = self.keys.prepare(LOG).public
        if self.catalog.read(deciding.log_keys)[-1][1] != fresh.hex:
            self._say("log_rotate", self.origin, "log_key", public=fresh.hex, reason=reason)
        self.sign_head()
        return fresh

    def revoke_key(self, name: str, reason: str) -> RegisteredKey:
        """End a key: what it signs from now on is refused, what it signed before stays valid.

        Raises:
            KeyMissingError: No key of this name is in force.
            PolicyError: It is the last key of an owner, or no reason is given.
        """
        if not reason.strip():
            raise PolicyError(f"say why the key {name!r} ends: the reason is kept in the ledger.")
        key = self._in_force(name)
        owners = [one for one in self.key_list() if "owner" in one.roles and one.revoked is None]
        if [one.id for one in owners] == [key.id]:
            raise PolicyError(
                f"{name!r} is the last key of an owner, without which nobody could govern the log; "
                "rotate it, or register another owner first."
            )
        self._say("key_revoke", name, "revocation", name=name, key=key.id, reason=reason)
        return next(one for one in self.key_list() if one.id == key.id)

    def owner_key(self) -> SigningKey:
        """Return the key of an owner that is at hand and in force.

        Raises:
            KeyMissingError: There is none.
        """
        owners = [one for one in self.key_list() if "owner" in one.roles and one.revoked is None]
        for one in sorted(owners, key=lambda known: known.name != OWNER):
            if self.keys.has(one.name) and self.keys.load(one.name).key_id == one.id:
                return self.keys.load(one.name)
        raise KeyMissingError(
            f"no key of an owner is in {self.keys.root}; bring {owners[0].name}.key back, or run "
            "this where it is."
        )

    def registered_signer(self, name: str, role: str) -> SigningKey:
        """Return the key of a name that is at hand, registered for a role and in force.

        Raises:
            KeyMissingError: There is none.
        """
        naming.check_key(name)
        for key in self.key_list():
            if key.name == name and role in key.roles and key.revoked is None:
                signer = self.keys.load(name)
                if signer.key_id != key.id:
                    raise KeyMissingError(f"the key file {name!r} is not the registered key.")
                return signer
        taken = [key for key in self.key_list() if key.name == name and key.revoked is None]
        if taken or name == LOG:
            roles = ", ".join(taken[0].roles) if taken else "the signer of the tree heads"
            raise KeyMissingError(
                f"the key {name!r} is registered as {roles} and not as {role}; use another, made "
                "with: artifact-pipelines key create NAME"
            )
        raise KeyMissingError(
            f"no key {name!r} is registered as {role}; make one with: "
            f"artifact-pipelines key create {name}"
        )

    def _in_force(self, name: str) -> RegisteredKey:
        for key in self.key_list():
            if key.name == name and key.revoked is None:
                return key
        raise KeyMissingError(f"no key {name!r} is in force; artifact-pipelines key list has all.")

    def _say(self, action: str, subject: str, kind: str, **said: Any) -> None:
        """Append a statement of the owner's."""
        payload = {"type": kind, "origin": self.origin, **said}
        self.append(action, subject, self.owner_key().sign_statement(payload).as_body())
