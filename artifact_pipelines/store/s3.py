"""Objects in an S3 bucket, whoever serves it.

Single requests go through obstore, which costs a third of the CPU; what it has no call for
goes through boto3: uploads in parts that replace nothing, and what the bucket is set to.
Both find endpoint, region and credentials where every AWS tool does.
"""

import contextlib
import functools
import ipaddress
import os
import random
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from artifact_pipelines.errors import ConfigurationError, MissingObjectError, StoreError
from artifact_pipelines.store.backend import KEY, TEMPORARY, Backend, Writer, check_key

PART = 8 * 1024 * 1024
"""Bytes of a part; an upload holds at most `_FLYING` parts and the one being filled."""
PATIENCE = 60.0  # seconds that a server may be away before an operation fails
OPENING_PATIENCE = 5.0

_FLYING = 3
_PARTS = 1000  # after each so many, parts are larger: a bucket takes 10,000 of an object
_PAUSE = 0.1  # seconds before the first repetition, doubled for each further one
_LONGEST_PAUSE = 5.0
_CREDENTIALS_LIVE = timedelta(minutes=5)
_REGION = "us-east-1"  # what servers other than Amazon's expect
_WRITER = "writer"  # the metadata that tells whose success an object is
_PROBE = f"{TEMPORARY}/probe"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
_ABSENT = {"NoSuchKey", "NotFound"}
_PASSING = 500  # a status from here on may not be there the next time
_FORBIDDEN, _UNKNOWN, _TOO_MANY, _UNSATISFIABLE = 403, 404, 429, 416

Result = TypeVar("Result")

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


class S3Backend(Backend):
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
        found = os.environ if environ is None else environ
        self.bucket, self.prefix = _parsed(url)
        self.url = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        session = _session()
        credentials = session.get_credentials()
        if credentials is None:
            raise ConfigurationError(
                f"there are no credentials for {self.url}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            )
        endpoint = found.get("AWS_ENDPOINT_URL_S3") or found.get("AWS_ENDPOINT_URL") or None
        region = found.get("AWS_REGION") or session.region_name or _REGION
        secure = endpoint is None or endpoint.startswith("https://")
        if not secure:
            _check_plain(endpoint or "", found)
        # Under TLS nobody changes a body on its way, and each chunk is verified when read.
        unsigned = secure or _is_set(found, "AWS_UNSIGNED_PAYLOAD")
        self.client: Any = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=_FLYING + 1,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={
                    "addressing_style": "path" if endpoint else "auto",
                    "payload_signing_enabled": not unsigned,
                },
            ),
        )
        self.endpoint: str = endpoint or self.client.meta.endpoint_url

        def fresh() -> Any:  # noqa: ANN401  obstore's type exists for type checkers only
            now = credentials.get_frozen_credentials()
            return {
                "access_key_id": now.access_key,
                "secret_access_key": now.secret_key,
                "token": now.token,
                "expires_at": datetime.now(UTC) + _CREDENTIALS_LIVE,
            }

        place = {"endpoint": endpoint} if endpoint else {}
        self._store = S3Store(
            self.bucket,
            prefix=self.prefix or None,
            region=region,
            unsigned_payload=unsigned,
            disable_bulk_delete=True,
            virtual_hosted_style_request=endpoint is None and "." not in self.bucket,
            credential_provider=fresh,
            client_options={
                "allow_http": not secure,
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

    def create(self, key: str) -> Writer:
        """Return a writer of a new object."""
        return _S3Writer(self, check_key(key))

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
            if isinstance(error.__cause__, BaseError) and _status(error.__cause__) == (
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
            return [path for path in paths if path.startswith(prefix) and _is_ours(path)]

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

    def address(self, key: str) -> dict[str, str]:
        """Return where an object is, as boto3 wants it."""
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def ask(self, key: str, request: Callable[[], Result]) -> Result:
        """Return what a request gives, repeated while the server is away.

        Raises:
            MissingObjectError: There is no such object.
            StoreError: The server refuses it, or was away for too long.
        """
        self._check_process()
        until, pause = time.monotonic() + self._patience, _PAUSE
        while True:
            try:
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise self._no_bucket() from error
                raise MissingObjectError(key) from error
            except (BaseError, ClientError, BotoCoreError) as error:
                if _is_absent(error):
                    raise MissingObjectError(key) from error
                if not _may_pass(error) or time.monotonic() + pause > until:
                    raise self._explained(key, error) from error
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  jitter
            pause = min(2 * pause, _LONGEST_PAUSE)

    def settle(self, key: str, attempt: Callable[[], bool | None]) -> bool:
        """Repeat an attempt to be the first until it is known whether it was."""
        for _ in range(20):
            won = self.ask(key, attempt)
            if won is not None:
                return won
            # Another writer was ahead and is not done, or has taken its object away.
            time.sleep(_PAUSE)
        raise StoreError(f"the object {key!r} in {self.url} is being written by others; try again.")

    def is_written_by(self, key: str, writer: str) -> bool | None:
        """Return whether an object is a writer's, or None where there is none."""
        try:
            found = self.client.head_object(**self.address(key))
        except ClientError as error:
            if _is_absent(error):
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
                if before and _is_denied(error.__cause__):
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
            raise self._no_bucket() from error
        except StoreError as error:
            if not _is_denied(error.__cause__):
                raise
            # Who may write objects need not be allowed to look at the bucket.

    def _server(self) -> str:
        with contextlib.suppress(ClientError, BotoCoreError):
            found = self.client.head_bucket(Bucket=self.bucket)
            name = found["ResponseMetadata"]["HTTPHeaders"].get("server")
            if name:
                return f"{name} at {self.endpoint}"
        return f"at {self.endpoint}"

    def _no_bucket(self) -> StoreError:
        return StoreError(
            f"there is no bucket {self.bucket!r} at {self.endpoint}; create it, or correct "
            "ARTIFACT_PIPELINES_STORE_URL."
        )

    def _explained(self, key: str, error: Exception) -> StoreError:
        """Return what went wrong, as a sentence that says what to do."""
        code, status = _code(error), _status(error)
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code == "NoSuchUpload":
            return StoreError(
                f"the upload of {key!r} to {self.url} took so long that it was swept; try again."
            )
        if _is_denied(error):
            who = self.client._request_signer._credentials.access_key  # noqa: SLF001
            why = f" ({code})" if code else ""
            return StoreError(
                f"{self.endpoint} refused the access key {who} for {self.url}/{key}{why}; check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what the key may do."
            )
        if status is None and code is None:
            return StoreError(
                f"the store {self.url} cannot be reached at {self.endpoint}; check the network "
                "and AWS_ENDPOINT_URL, then try again."
            )
        answer = " ".join(str(said) for said in (status, code) if said)
        return StoreError(f"{self.endpoint} answered {answer} for {self.url}/{key}.")


class _S3Writer(Writer):
    """An object on its way: one request when it is small, parts when it is not."""

    def __init__(self, backend: S3Backend, key: str) -> None:
        self._backend = backend
        self._key = key
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
            if self._upload is None:
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
            while len(self._flying) >= _FLYING:
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
                **at, Metadata={_WRITER: self._writer}
            ),
        )
        self._upload = begun["UploadId"]
        _living.add(begun["UploadId"])
        self._pool = ThreadPoolExecutor(_FLYING, thread_name_prefix="upload")

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
            if _code(error) not in _TAKEN | {"NoSuchUpload"}:
                raise
            ours = self._backend.is_written_by(self._key, self._writer)
            if ours is None and _code(error) == "NoSuchUpload":
                raise
            return ours
        return True

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(f"the object {self._key!r} is already closed.")


@functools.cache
def _loader() -> Any:  # noqa: ANN401  boto3 has no types
    """Return what reads the description of S3, which takes long, once for a process."""
    return botocore.loaders.create_loader()


def _session() -> Any:  # noqa: ANN401  boto3 has no types
    """Return a session over the environment and the configuration as they are now."""
    inner = botocore.session.get_session()
    inner.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=inner)


def _parsed(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of a URL."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    plain = not (parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc)
    if not plain or _BUCKET.fullmatch(parts.netloc) is None or (prefix and not _is_ours(prefix)):
        raise ConfigurationError(
            f"the store URL {url!r} is not s3://bucket/prefix with plain names; endpoint and "
            "credentials are taken from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and their like."
        )
    return parts.netloc, prefix


def _check_plain(endpoint: str, environ: Mapping[str, str]) -> None:
    """Refuse an endpoint without TLS that others could listen to."""
    host = urlsplit(endpoint).hostname or ""
    local = host == "localhost"
    with contextlib.suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if not local and not _is_set(environ, "AWS_ALLOW_HTTP"):
        raise ConfigurationError(
            f"AWS_ENDPOINT_URL {endpoint} is not encrypted and not on this machine; use https, "
            "or set AWS_ALLOW_HTTP=true on a network that you trust."
        )


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in {"1", "true", "yes", "on"}


def _is_ours(path: str) -> bool:
    return KEY.fullmatch(path) is not None and path.partition("/")[0] != TEMPORARY


def _code(error: object) -> str | None:
    """Return the name that S3 gave to an error."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return None if code.isdigit() else code or None
    found = _CODE.search(str(error))
    return found[1] if found else None


def _status(error: object) -> int | None:
    """Return the HTTP status of an error, or None where no answer came."""
    if isinstance(error, ClientError):
        status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _is_absent(error: object) -> bool:
    """Return whether the answer of boto3 is that an object or a bucket is not there."""
    if not isinstance(error, ClientError):
        return False
    code = _code(error)
    return code in _ABSENT or (code is None and _status(error) == _UNKNOWN)


def _is_denied(error: object) -> bool:
    return _code(error) in _DENIED or _status(error) in {401, _FORBIDDEN}


def _may_pass(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, AlreadyExistsError):
        return False
    status = _status(error)
    if status is None:
        return True
    return status >= _PASSING or status == _TOO_MANY or _code(error) == "RequestTimeout"
