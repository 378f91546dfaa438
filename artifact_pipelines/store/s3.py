"""Objects in an S3 bucket, whoever serves it.

Single requests go through obstore, which costs a third of the CPU; what it has no call for
goes through boto3: uploads in parts that replace nothing, and what the bucket is set to.
Both find endpoint, region and credentials where every AWS tool does.
"""

import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from artifact_pipelines.errors import ConfigurationError, MissingObjectError, StoreError
from artifact_pipelines.store.backend import KEY, TEMPORARY, Backend, Writer, check_key
from artifact_pipelines.store.bucket import (
    FLYING,
    PATIENCE,
    Bucket,
    Result,
    code_of,
    is_absent,
    is_denied,
    is_ours,
    status_of,
)

PART = 8 * 1024 * 1024
"""Bytes of a part; an upload holds at most `FLYING` parts and the one being filled."""
OPENING_PATIENCE = 5.0

_PARTS = 1000  # after each so many, parts are larger: a bucket takes 10,000 of an object
_TURN = 0.1  # seconds between two looks at what another writer does
_CREDENTIALS_LIVE = timedelta(minutes=5)
_WRITER = "writer"  # the metadata that tells whose success an object is
_PROBE = f"{TEMPORARY}/probe"

_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
_UNSATISFIABLE = 416

COLD_CLASS = "ARTIFACT_PIPELINES_COLD_CLASS"
"""The variable that names the storage class of packs of the cold tier."""
_COLD_CLASSES = ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR")

# The uploads of this process, so that its own sweep leaves them alone.
_living: set[str] = set()


class _Runtime:
    """The process that obstore's threads are in: they do not follow into a fork."""

    process: int | None = None


@dataclass(frozen=True, slots=True)
class Protection:
    """What a bucket does with objects that are deleted or replaced.

    Attributes:
        versioned: It keeps every version, so that deleting frees nothing.
        locked: The default object lock, such as `COMPLIANCE`, if there is one.
    """

    versioned: bool
    locked: str | None


class S3Backend(Bucket, Backend):
    """Objects below a prefix of a bucket."""

    def __init__(self, url: str, environ: Mapping[str, str] | None = None) -> None:
        """Open the bucket and make sure that it can carry a store.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            environ: The variables; those of the process when left out.

        Raises:
            ConfigurationError: The URL or the environment cannot be used.
            StoreError: The bucket cannot be reached, or does not honour put-if-absent.
        """
        super().__init__(url, environ)
        self.cold_class = _cold_class(os.environ if environ is None else environ)

        def fresh() -> Any:  # noqa: ANN401  obstore's type exists for type checkers only
            now = self.credentials.get_frozen_credentials()
            return {
                "access_key_id": now.access_key,
                "secret_access_key": now.secret_key,
                "token": now.token,
                "expires_at": datetime.now(UTC) + _CREDENTIALS_LIVE,
            }

        place = {"endpoint": self.given} if self.given else {}
        self._store = S3Store(
            self.bucket,
            prefix=self.prefix or None,
            region=self.region,
            unsigned_payload=self.unsigned,
            disable_bulk_delete=True,
            virtual_hosted_style_request=self.given is None and "." not in self.bucket,
            credential_provider=fresh,
            client_options={
                "allow_http": not self.secure,
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(minutes=5),
                "read_timeout": timedelta(seconds=30),
            },
            retry_config={"max_retries": 0},
            **place,  # type: ignore[arg-type]
        )
        self._patience = OPENING_PATIENCE
        self._check_bucket()
        self._patience = PATIENCE

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, and return whether it was written."""
        check_key(key)
        if if_absent:
            return self.place(key, data)
        self.ask(key, lambda: obstore.put(self._store, key, data, use_multipart=False))
        return True

    def place(self, key: str, data: bytes | bytearray) -> bool:
        """Write an object where there is none, and return whether it was written.

        A repeated request may meet the success of the one before it, whose reply was lost:
        the name of the writer in the object tells.
        """
        writer = secrets.token_hex(16)

        def attempt() -> bool | None:
            try:
                obstore.put(self._store, key, data, mode="create", attributes={_WRITER: writer})
            except AlreadyExistsError:
                return self.is_written_by(key, writer)
            return True

        return self.settle(key, attempt)

    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object, a cold one in the storage class for such."""
        return _S3Writer(self, check_key(key), self.cold_class if cold else None)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        check_key(key)
        if length == 0 or start < 0:
            self._look(key)
            return b""
        wanted: Any = {"offset": start} if length is None else (start, start + length)
        options: Any = {"range": wanted} if start or length is not None else {}

        def read() -> bytes:
            return bytes(obstore.get(self._store, key, options=options).bytes())

        try:
            return self.ask(key, read)
        except StoreError as error:
            if isinstance(error.__cause__, BaseError) and status_of(error.__cause__) == (
                _UNSATISFIABLE
            ):
                return b""
            raise

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        try:
            return int(self._look(key)["size"])
        except MissingObjectError:
            return None

    def age(self, key: str) -> float:
        """Return the seconds since an object was written, by the server's clock and ours."""
        written: datetime = self._look(key)["last_modified"]
        return max((datetime.now(UTC) - written).total_seconds(), 0.0)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order.

        The pages of the listing are collected first: servers that keep folders list `a/b`
        before `a-b`, against the order of the keys.
        """
        folder, slash, _ = prefix.rpartition("/")
        if slash and KEY.fullmatch(folder) is None:
            return

        def listed() -> list[str]:
            pages = self._store.list(folder or None)
            paths = (meta["path"] for page in pages for meta in page)
            return [path for path in paths if path.startswith(prefix) and is_ours(path)]

        yield from sorted(self.ask(prefix or "*", listed))

    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""
        if self.size(key) is None:
            return False
        self.ask(key, lambda: obstore.delete(self._store, key))
        return True

    def sweep_temporaries(self, older_than: float) -> int:
        """Abort uploads that dead writers left.

        A bucket does not know who lives: an upload of another process counts as left once
        it is old enough. Its writer, should it live, is refused and publishes nothing.
        """
        now, swept = datetime.now(UTC), 0
        for upload in list(self._uploads()):
            age = (now - upload["Initiated"]).total_seconds()
            if upload["UploadId"] not in _living and age >= older_than:
                self.drop(upload["Key"], upload["UploadId"])
                swept += 1
        return swept

    def protection(self) -> Protection:
        """Return what the bucket does with objects that are deleted or replaced."""
        status = self.ask("", lambda: self.client.get_bucket_versioning(Bucket=self.bucket))
        locked = None
        try:
            found = self.ask(
                "", lambda: self.client.get_object_lock_configuration(Bucket=self.bucket)
            )
            rule = found.get("ObjectLockConfiguration", {}).get("Rule", {})
            locked = rule.get("DefaultRetention", {}).get("Mode")
        except StoreError as error:
            # No configuration is an answer; some servers lack the question.
            if not isinstance(error.__cause__, ClientError):
                raise
        return Protection(status.get("Status") == "Enabled", locked)

    def storage_class(self, key: str) -> str:
        """Return the storage class of an object; `STANDARD` where the server names none."""
        found = self.ask(key, lambda: self.client.head_object(**self.address(check_key(key))))
        return str(found.get("StorageClass") or "STANDARD")

    def set_storage_class(self, key: str, name: str) -> None:
        """Move an object to another storage class of its server; its bytes stay the same."""
        at = self.address(check_key(key))
        found = self.ask(key, lambda: self.client.head_object(**at))
        # Some servers take a copy onto itself only when the metadata is given anew.
        self.ask(
            key,
            lambda: self.client.copy_object(
                **at,
                CopySource=at,
                StorageClass=name,
                MetadataDirective="REPLACE",
                Metadata=found["Metadata"],
                ContentType=found["ContentType"],
            ),
        )

    # For the writers

    def ask(self, key: str, request: Callable[[], Result]) -> Result:
        """Return what a request gives, repeated while the server is away."""
        self._check_process()
        return super().ask(key, request)

    def settle(self, key: str, attempt: Callable[[], bool | None]) -> bool:
        """Repeat an attempt to be the first until it is known whether it was."""
        for _ in range(20):
            won = self.ask(key, attempt)
            if won is not None:
                return won
            # Another writer was ahead and is not done, or has taken its object away.
            time.sleep(_TURN)
        raise StoreError(f"the object {key!r} in {self.url} is being written by others; try again.")

    def is_written_by(self, key: str, writer: str) -> bool | None:
        """Return whether an object is a writer's, or None where there is none."""
        try:
            found = self.client.head_object(**self.address(key))
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        return bool(found["Metadata"].get(_WRITER) == writer)

    def drop(self, path: str, upload: str) -> None:
        """Give an upload up; one that has gone is no error."""
        with contextlib.suppress(ClientError, BotoCoreError):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=path, UploadId=upload)

    def _look(self, key: str) -> Any:  # noqa: ANN401  obstore's type exists for type checkers only
        check_key(key)
        return self.ask(key, lambda: obstore.head(self._store, key))

    def _uploads(self) -> Iterator[dict[str, Any]]:
        at = {"Bucket": self.bucket, "Prefix": f"{self.prefix}/" if self.prefix else ""}
        while True:
            page = self.ask("", lambda at=at: self.client.list_multipart_uploads(**at))  # type: ignore[misc]
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            at = {
                **at,
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def _check_process(self) -> None:
        if _Runtime.process is None:
            _Runtime.process = os.getpid()
        elif _Runtime.process != os.getpid():
            raise StoreError(
                f"the store {self.url} was opened before this process was forked, and its "
                'connections do not follow; start processes with the method "spawn".'
            )

    def _check_bucket(self) -> None:
        """Refuse a bucket that is not there, or takes a second first writer.

        One object is kept to ask with; a reader who may not write is let in where a writer
        has asked before.
        """
        self._check_process()
        before = self._probed()
        if not before:
            self._find_bucket()
        attempts = 1 if before else 2
        for attempt in range(attempts):
            try:
                self.ask(
                    _PROBE,
                    lambda: obstore.put(self._store, _PROBE, b"put if absent\n", mode="create"),
                )
            except StoreError as error:
                if isinstance(error.__cause__, AlreadyExistsError):
                    return
                if before and is_denied(error.__cause__):
                    return
                raise
            if attempt == attempts - 1:
                raise ConfigurationError(
                    f"the server {self._server()} of {self.url} replaced an object that it was "
                    "told to write only if absent (If-None-Match); two writers would overwrite "
                    "each other, so use a server that honours it."
                )

    def _probed(self) -> bool:
        try:
            self.ask(_PROBE, lambda: obstore.head(self._store, _PROBE))
        except MissingObjectError:
            return False
        return True

    def _find_bucket(self) -> None:
        try:
            self.ask("", lambda: self.client.head_bucket(Bucket=self.bucket))
        except MissingObjectError as error:
            raise self.no_bucket() from error
        except StoreError as error:
            if not is_denied(error.__cause__):
                raise
            # Who may write objects need not be allowed to look at the bucket.

    def _server(self) -> str:
        with contextlib.suppress(ClientError, BotoCoreError):
            found = self.client.head_bucket(Bucket=self.bucket)
            name = found["ResponseMetadata"]["HTTPHeaders"].get("server")
            if name:
                return f"{name} at {self.endpoint}"
        return f"at {self.endpoint}"


class _S3Writer(Writer):
    """An object on its way: one request when it is small, parts when it is not."""

    def __init__(self, backend: S3Backend, key: str, storage_class: str | None) -> None:
        self._backend = backend
        self._key = key
        self._placing = {} if storage_class is None else {"StorageClass": storage_class}
        self._writer = secrets.token_hex(16)
        self._buffer = bytearray()
        self._filled = 0
        # Buffers that have arrived are filled again: new memory costs as much as a copy.
        self._spare: deque[bytearray] = deque()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._flying: deque[Future[None]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        self._check_open()
        view = memoryview(data).cast("B")
        while view:
            if self._filled + len(view) > len(self._buffer):
                self._make_room(self._filled + len(view))
            taken = min(len(view), self._part_size() - self._filled)
            # By way of a view, since a bytearray would copy what is not one once more.
            memoryview(self._buffer)[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]
            if self._filled == self._part_size():
                self._send()

    def commit(self) -> None:
        self._check_open()
        try:
            # obstore names no storage class, so that such an object is an upload in parts.
            if self._upload is None and not self._placing:
                placed = self._backend.place(self._key, self._buffer[: self._filled])
            else:
                if self._filled:
                    self._send()
                while self._flying:
                    self._flying.popleft().result()
                placed = self._backend.settle(self._key, self._completed)
                if placed:
                    _living.discard(self._upload)
                    self._upload = None
        finally:
            self.abort()
        if not placed:
            raise StoreError(f"the object {self._key!r} is there already; it is not replaced.")

    def abort(self) -> None:
        if not self._open:
            return
        self._open = False
        self._buffer, self._filled = bytearray(), 0
        self._spare.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._upload is not None:
            self._backend.drop(self._backend.address(self._key)["Key"], self._upload)
            _living.discard(self._upload)

    def _make_room(self, wanted: int) -> None:
        """Let the buffer grow with a small object, and at once to a part with a larger one."""
        size = self._part_size()
        grown = size if wanted > size // 8 else max(wanted, 2 * len(self._buffer))
        if grown > len(self._buffer):
            self._buffer += bytes(grown - len(self._buffer))

    def _part_size(self) -> int:
        return PART * (1 + len(self._parts) // _PARTS)

    def _send(self) -> None:
        """Hand a full buffer over, once one of those under way has arrived."""
        try:
            if self._pool is None:
                self._begin()
            while len(self._flying) >= FLYING:
                self._flying.popleft().result()
            part: dict[str, Any] = {"PartNumber": len(self._parts) + 1}
            self._parts.append(part)
            data = self._buffer
            if self._filled < len(data):
                data = data[: self._filled]
            self._buffer, self._filled = self._spare.popleft() if self._spare else bytearray(), 0
            assert self._pool is not None  # noqa: S101
            self._flying.append(self._pool.submit(self._send_part, part, data))
        except StoreError:
            self.abort()
            raise

    def _begin(self) -> None:
        at = self._backend.address(self._key)
        begun = self._backend.ask(
            self._key,
            lambda: self._backend.client.create_multipart_upload(
                **at, Metadata={_WRITER: self._writer}, **self._placing
            ),
        )
        self._upload = begun["UploadId"]
        _living.add(begun["UploadId"])
        self._pool = ThreadPoolExecutor(FLYING, thread_name_prefix="upload")

    def _send_part(self, part: dict[str, Any], data: bytearray) -> None:
        at = self._backend.address(self._key)
        sent = self._backend.ask(
            self._key,
            lambda: self._backend.client.upload_part(
                **at, UploadId=self._upload, PartNumber=part["PartNumber"], Body=data
            ),
        )
        part["ETag"] = sent["ETag"]
        self._spare.append(data)

    def _completed(self) -> bool | None:
        """Complete the upload unless the key is taken, and return whether that was done.

        After a lost reply the server knows the upload no more, or finds its own object.
        """
        at = self._backend.address(self._key)
        try:
            self._backend.client.complete_multipart_upload(
                **at,
                UploadId=self._upload,
                MultipartUpload={"Parts": self._parts},
                IfNoneMatch="*",
            )
        except ClientError as error:
            if code_of(error) not in _TAKEN | {"NoSuchUpload"}:
                raise
            ours = self._backend.is_written_by(self._key, self._writer)
            if ours is None and code_of(error) == "NoSuchUpload":
                raise
            return ours
        return True

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(f"the object {self._key!r} is already closed.")


def _cold_class(environ: Mapping[str, str]) -> str | None:
    """Return the storage class of cold packs: one whose objects can be read at once."""
    name = environ.get(COLD_CLASS, "").strip().upper()
    if not name or name == "STANDARD":
        return None
    if name not in _COLD_CLASSES:
        raise ConfigurationError(
            f"{COLD_CLASS} is {name!r}; use one of {', '.join(_COLD_CLASSES)}. What must be "
            "thawed for hours before it is read can be neither verified nor rolled back to."
        )
    return name
