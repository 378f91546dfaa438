"""A bucket of an S3 server: how it is found, asked again, and what its refusals mean.

Endpoint, region and credentials are taken from where every AWS tool finds them.
"""

import contextlib
import functools
import ipaddress
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import AlreadyExistsError, BaseError

from artifact_pipelines.errors import ConfigurationError, MissingObjectError, StoreError
from artifact_pipelines.store.backend import KEY, TEMPORARY

PATIENCE = 60.0  # seconds that a server may be away before an operation fails
FLYING = 3  # parts of an upload that are under way at once

_PAUSE = 0.1  # seconds before the first repetition, doubled for each further one
_LONGEST_PAUSE = 5.0
_REGION = "us-east-1"  # what servers other than Amazon's expect
_WINDOW = 4 * 1024 * 1024

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_ABSENT = {"NoSuchKey", "NotFound"}
_PASSING = 500  # a status from here on may not be there the next time
_FORBIDDEN, _UNKNOWN, _TOO_MANY = 403, 404, 429

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a bucket.

    Attributes:
        key: Its key below the prefix.
        size: Its length in bytes.
        etag: What the server calls these bytes of it.
        age: Seconds since it was written, by the server's clock alone.
    """

    key: str
    size: int
    etag: str
    age: float


class Bucket:
    """The objects below a prefix of a bucket, whatever they are called.

    Attributes:
        url: `s3://bucket/prefix`.
        endpoint: The server.
        client: What boto3 asks it with.
    """

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str] | None = None,
        *,
        role: str = "store",
        setting: str = "ARTIFACT_PIPELINES_STORE_URL",
    ) -> None:
        """Find the server; nothing is asked of it yet.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            environ: The variables; those of the process when left out.
            role: What the bucket is for, as errors call it.
            setting: Where the URL came from, for errors.

        Raises:
            ConfigurationError: The URL or the environment cannot be used.
        """
        found = os.environ if environ is None else environ
        self._role, self._setting = role, setting
        self.bucket, self.prefix = _parsed(role, url)
        self.url = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        session = _session()
        self.credentials: Any = session.get_credentials()
        if self.credentials is None:
            raise ConfigurationError(
                f"there are no credentials for {self.url}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            )
        self.given = found.get("AWS_ENDPOINT_URL_S3") or found.get("AWS_ENDPOINT_URL") or None
        self.region = found.get("AWS_REGION") or session.region_name or _REGION
        self.secure = self.given is None or self.given.startswith("https://")
        if not self.secure:
            _check_plain(self.given or "", found)
        # Under TLS nobody changes a body on its way, and each chunk is verified when read.
        self.unsigned = self.secure or _is_set(found, "AWS_UNSIGNED_PAYLOAD")
        self.client: Any = session.client(
            "s3",
            endpoint_url=self.given,
            region_name=self.region,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=FLYING + 1,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={
                    "addressing_style": "path" if self.given else "auto",
                    "payload_signing_enabled": not self.unsigned,
                },
            ),
        )
        self.endpoint: str = self.given or self.client.meta.endpoint_url
        self._patience = PATIENCE

    def address(self, key: str) -> dict[str, str]:
        """Return where an object is, as boto3 wants it."""
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def listed(self) -> list[Listed]:
        """Return every object below the prefix by key.

        Raises:
            StoreError: The bucket is not there, or does not answer.
        """
        before = len(self.prefix) + 1 if self.prefix else 0

        def pages() -> Iterator[Listed]:
            at = {"Bucket": self.bucket, "Prefix": f"{self.prefix}/" if self.prefix else ""}
            while True:
                page = self.client.list_objects_v2(**at)
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for one in page.get("Contents", []):
                    age = max((now - one["LastModified"]).total_seconds(), 0.0)
                    yield Listed(one["Key"][before:], one["Size"], one["ETag"], age)
                if not page.get("IsTruncated"):
                    return
                at = {**at, "ContinuationToken": page["NextContinuationToken"]}

        return sorted(self.ask("", lambda: list(pages())), key=lambda one: one.key)

    def download(self, item: Listed, to: Path) -> None:
        """Write an object to a file, as it was when it was listed.

        Raises:
            MissingObjectError: It has gone since, or was replaced.
            StoreError: The server refuses it, or was away for too long.
        """

        def fetch() -> None:
            got = self.client.get_object(**self.address(item.key), IfMatch=item.etag)
            with to.open("wb") as file:
                for window in got["Body"].iter_chunks(_WINDOW):
                    file.write(window)

        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.ask(item.key, fetch)
        except StoreError as error:
            if code_of(error.__cause__) == "PreconditionFailed":
                raise MissingObjectError(item.key) from error
            raise

    def ask(self, key: str, request: Callable[[], Result]) -> Result:
        """Return what a request gives, repeated while the server is away.

        Raises:
            MissingObjectError: There is no such object.
            StoreError: The server refuses it, or was away for too long.
        """
        until, pause = time.monotonic() + self._patience, _PAUSE
        while True:
            try:
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise self.no_bucket() from error
                raise MissingObjectError(key) from error
            except (BaseError, ClientError, BotoCoreError) as error:
                if is_absent(error):
                    raise MissingObjectError(key) from error
                if not _may_pass(error) or time.monotonic() + pause > until:
                    raise self._explained(key, error) from error
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  jitter
            pause = min(2 * pause, _LONGEST_PAUSE)

    def no_bucket(self) -> StoreError:
        """Return that the bucket is not there."""
        return StoreError(
            f"there is no bucket {self.bucket!r} at {self.endpoint}; create it, or correct "
            f"{self._setting}."
        )

    def _explained(self, key: str, error: Exception) -> StoreError:
        """Return what went wrong, as a sentence that says what to do."""
        code, status = code_of(error), status_of(error)
        if code == "NoSuchBucket":
            return self.no_bucket()
        if code == "NoSuchUpload":
            return StoreError(
                f"the upload of {key!r} to {self.url} took so long that it was swept; try again."
            )
        if code == "InvalidObjectState":
            at = self.address(key)
            return StoreError(
                f"{self.url}/{key} was moved to a storage class that must be thawed before it is "
                f"read; ask for it with: aws s3api restore-object --bucket {at['Bucket']} --key "
                f"{at['Key']} --restore-request Days=7, and try again in some hours."
            )
        if is_denied(error):
            who = self.client._request_signer._credentials.access_key  # noqa: SLF001
            why = f" ({code})" if code else ""
            return StoreError(
                f"{self.endpoint} refused the access key {who} for {self.url}/{key}{why}; check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what the key may do."
            )
        if status is None and code is None:
            return StoreError(
                f"the {self._role} {self.url} cannot be reached at {self.endpoint}; check the "
                "network and AWS_ENDPOINT_URL, then try again."
            )
        answer = " ".join(str(said) for said in (status, code) if said)
        return StoreError(f"{self.endpoint} answered {answer} for {self.url}/{key}.")


def is_ours(path: str) -> bool:
    """Return whether a path is a key that a store may have."""
    return KEY.fullmatch(path) is not None and path.partition("/")[0] != TEMPORARY


def code_of(error: object) -> str | None:
    """Return the name that S3 gave to an error."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return None if code.isdigit() else code or None
    found = _CODE.search(str(error))
    return found[1] if found else None


def status_of(error: object) -> int | None:
    """Return the HTTP status of an error, or None where no answer came."""
    if isinstance(error, ClientError):
        status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def is_absent(error: object) -> bool:
    """Return whether the answer of boto3 is that an object is not there."""
    if not isinstance(error, ClientError):
        return False
    code = code_of(error)
    return code in _ABSENT or (code is None and status_of(error) == _UNKNOWN)


def is_denied(error: object) -> bool:
    """Return whether the server refused the key, or what it asked for."""
    return code_of(error) in _DENIED or status_of(error) in {401, _FORBIDDEN}


def _may_pass(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, AlreadyExistsError):
        return False
    status = status_of(error)
    if status is None:
        return True
    return status >= _PASSING or status == _TOO_MANY or code_of(error) == "RequestTimeout"


@functools.cache
def _loader() -> Any:  # noqa: ANN401  boto3 has no types
    """Return what reads the description of S3, which takes long, once for a process."""
    return botocore.loaders.create_loader()


def _session() -> Any:  # noqa: ANN401  boto3 has no types
    """Return a session over the environment and the configuration as they are now."""
    inner = botocore.session.get_session()
    inner.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=inner)


def _parsed(role: str, url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of a URL."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    plain = not (parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc)
    if not plain or _BUCKET.fullmatch(parts.netloc) is None or (prefix and not is_ours(prefix)):
        raise ConfigurationError(
            f"the {role} URL {url!r} is not s3://bucket/prefix with plain names; endpoint and "
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
