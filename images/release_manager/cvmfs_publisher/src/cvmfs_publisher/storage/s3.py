# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in an S3 bucket, which CernVM-FS's clients read by plain HTTP."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import secrets
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from ..errors import (
    AccessDenied,
    ConfigurationError,
    EndpointUnreachable,
    ObjectNotFound,
    OvertakenWrite,
    PreconditionFailed,
    QuotaExceeded,
    StorageError,
    UnansweredDeletion,
)
from .http_client import HttpClient, tls_context
from .requester import Requester, ranges
from .sigv4 import EMPTY_SHA256, Signer, uri_encode
from .store import ObjectInfo, Version, headers_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from .cancellation import Cancellation
    from .requester import Answer
    from .s3_config import S3Config
    from .store import Bytes, Permit, Traffic

ConditionForm = Literal["quoted", "unquoted"]
_FORMS: tuple[ConditionForm, ...] = ("quoted", "unquoted")

_XML_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_DENIED = {
    "InvalidAccessKeyId": "Check CVMFS_S3_ACCESS_KEY",
    "SignatureDoesNotMatch": "Check CVMFS_S3_SECRET_KEY and CVMFS_S3_REGION",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "ExpiredToken": "Provide new keys, with their CVMFS_S3_SESSION_TOKEN",
    "InvalidToken": "Provide new keys, with their CVMFS_S3_SESSION_TOKEN",
}
_CLOCK_STEP = 2.0  # seconds; as exactly as the Date of an answer tells the time
_CREDENTIAL_CODES = (*_DENIED, "AccessDenied", "InvalidClientTokenId", "TokenRefreshRequired")
"""New credentials may help."""
_QUOTA_CODES = ("QuotaExceeded", "InsufficientCapacity", "ServiceQuotaExceededException")


class S3Store:
    """An object store in an S3 bucket.

    Writes are ordered by conditional PUTs. Amazon and most others take the ETag of ``If-Match`` in quotes, Ceph only
    without; which form the endpoint honours is found out by trying, once, before the first such write.

    :param config: where the bucket is
    :param notify: gets a line of text when requests have to be repeated, now and then
    :param reread: returns the settings as they are now; asked when the credentials are refused, which may have been
        replaced in the meantime
    """

    def __init__(
        self,
        config: S3Config,
        notify: Callable[[str], None] | None = None,
        reread: Callable[[], S3Config] | None = None,
    ) -> None:
        self._config = config
        self._reread = reread
        self._credentials_lock = threading.Lock()
        endpoint = urlsplit(config.endpoint)
        default_port = 443 if config.https else 80
        port = "" if config.port in (None, default_port) else f":{config.port}"
        if config.dns_buckets:
            self._host = f"{config.bucket}.{config.host}{port}"
            self._bucket_path = "/"
        else:
            self._host = f"{config.host}{port}"
            self._bucket_path = f"/{uri_encode(config.bucket)}/"
        self._prefix = f"{config.prefix}/" if config.prefix else ""
        self._acl = {"x-amz-acl": config.acl} if config.acl else {}
        self._signer = _signer(config)
        client = HttpClient(
            f"{endpoint.scheme}://{self._host}",
            timeout=config.timeout,
            proxy=config.proxy,
            context=tls_context(config.ca_bundle, config.ca_path) if config.https else None,
        )
        self._requester = Requester(client, config.retry, config.endpoint, notify)
        self._deletes_many = True
        self._form: ConditionForm | None = None
        self._form_lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where clients find the repository, if the bucket's policy lets them."""
        scheme = "https" if self._config.https else "http"
        return f"{scheme}://{self._host}{self._bucket_path}{uri_encode(self._config.prefix, '/')}"

    @property
    def concurrency(self) -> int:
        return self._config.parallel

    @property
    def traffic(self) -> Traffic:
        return self._requester.traffic

    @property
    def condition_form(self) -> ConditionForm:
        """How the endpoint takes the ETag of ``If-Match``; found out on first use.

        :raises StorageError: when it honours no form
        """
        with self._form_lock:
            if self._form is None:
                self._form = self._probe_conditions()
            return self._form

    def get(self, key: str) -> bytes:
        return self.get_versioned(key)[0]

    def get_in_parts(self, key: str, part_size: int) -> Iterator[bytes]:
        return ranges(
            lambda headers: self._request("GET", key, headers),
            part_size,
            lambda answer: self._error("read", key, answer),
            PreconditionFailed(f"{self._name(key)} was replaced while it was being read"),
        )

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        answer = self._request("GET", key)
        if answer.status != 200:
            raise self._error("read", key, answer)
        return answer.response.body, _version(answer)

    def exists(self, key: str) -> bool:
        if self._request("HEAD", key).status == 200:
            return True
        # HEAD is half as expensive, but its answers have no body that tells a missing object from a missing bucket.
        answer = self._request("GET", key, {"range": "bytes=0-0"})
        if answer.status in (200, 206, 416):
            return True
        error = self._error("look for", key, answer)
        if isinstance(error, ObjectNotFound):
            return False
        raise error

    def size(self, key: str) -> int | None:
        answer = self._request("HEAD", key)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._error("look for", key, answer)
        return int(answer.response.headers.get("content-length", "0"))

    def put(
        self,
        key: str,
        data: Bytes,
        *,
        cache_control: str | None = None,
        content_type: str | None = None,
        cancel: Cancellation | None = None,
    ) -> Version:
        # Why an object is not there, the PUT will tell
        if self._config.peek and key.startswith("data/") and self._request("HEAD", key).status == 200:
            return Version("")
        headers = {}
        if cache_control:
            headers["cache-control"] = cache_control
        if content_type:
            headers["content-type"] = content_type
        return self._done("write", key, self._put(key, data, headers, cancel))

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        return self._put_conditionally(key, data, {"if-none-match": "*"}, "exists already")

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        condition = {"if-match": _etag(version, self.condition_form)}
        return self._put_conditionally(key, data, condition, "was replaced or removed by somebody else")

    def delete(self, key: str) -> None:
        answer = self._request("DELETE", key)
        if answer.status not in (200, 204) and not isinstance(
            error := self._error("delete", key, answer), ObjectNotFound
        ):
            raise error

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        certain = True
        if self._deletes_many:
            items = "".join(f"<Object><Key>{escape(self._prefix + key)}</Key></Object>" for key in keys)
            body = f"<Delete><Quiet>true</Quiet>{items}</Delete>".encode()
            answer = self._until(permit, "POST", None, {"delete": ""}, body, cancel)
            certain = not answer.uncertain
            if answer.status == 200:
                failed = [text for text in self._failed_keys(answer) if text.startswith(self._prefix)]
                # One by one, they get answers that say why, and are repeated if that helps
                keys = [text.removeprefix(self._prefix) for text in failed]
            elif answer.status in (400, 405, 501):
                self._deletes_many = False  # an endpoint that does not offer it
            else:
                raise self._error("delete", keys[0], answer)
        for key in keys:
            answer = self._until(permit, "DELETE", key, {}, None, cancel, certain=certain)
            if answer.status not in (200, 204) and not isinstance(
                error := self._error("delete", key, answer), ObjectNotFound
            ):
                raise error
            certain &= not answer.uncertain
        return certain

    def now(self) -> float:
        return time.time() + self._requester.clock_offset

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        parameters = {"list-type": "2", "prefix": self._prefix + prefix}
        while True:
            answer = self._request("GET", None, parameters=parameters)
            if answer.status != 200:
                raise self._error("list", prefix, answer)
            try:
                page = ElementTree.fromstring(answer.response.body)  # noqa: S314  (from the store itself)
            except ElementTree.ParseError:
                raise StorageError(
                    f"{self._name(prefix)} at {self._config.endpoint} cannot be listed: the answer is no XML",
                    remedy="Rename or delete objects with control characters in their names, which XML cannot hold",
                ) from None
            for item in page.iter(f"{_XML_NAMESPACE}Contents"):
                text = {child.tag.removeprefix(_XML_NAMESPACE): child.text or "" for child in item}
                yield ObjectInfo(
                    text["Key"].removeprefix(self._prefix),
                    int(text["Size"]),
                    datetime.fromisoformat(text["LastModified"]),
                )
            token = page.findtext(f"{_XML_NAMESPACE}NextContinuationToken")
            if not token:
                return
            parameters["continuation-token"] = token

    def describe(self) -> str:
        return f"bucket {self._config.bucket} at {self._config.endpoint}"

    def close(self) -> None:
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self,
        method: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
        body: Bytes | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        cancel: Cancellation | None = None,
    ) -> Answer:
        path = self._bucket_path + (uri_encode(self._prefix + key, "/") if key is not None else "")
        query = "&".join(
            f"{uri_encode(name)}={uri_encode(value)}" for name, value in sorted((parameters or {}).items())
        )
        plain = {"host": self._host, **(headers or {})}
        digest = hashlib.sha256(body).hexdigest() if body is not None else EMPTY_SHA256
        uncertain = False
        while True:
            signer = self._signer
            answer = self._requester.request(
                method,
                f"{path}?{query}" if query else path,
                functools.partial(_signed, signer, method, path, query, plain, digest),
                body,
                subject=self._name(key or ""),
                cancel=cancel,
            )
            uncertain = uncertain or answer.uncertain
            if not self._is_worth_repeating(answer, signer):
                return replace(answer, uncertain=uncertain)

    def _is_worth_repeating(self, answer: Answer, refused: Signer) -> bool:
        """Say whether the credentials of a request were refused, and there are others now."""
        if self._reread is None or answer.status not in (400, 401, 403) or answer.code not in _CREDENTIAL_CODES:
            return False
        with self._credentials_lock:
            if self._signer is not refused:  # another thread was here
                return True
            try:
                config = self._reread()
            except ConfigurationError:  # being replaced; the service's answer says more
                return False
            if _credentials(config) == _credentials(self._config):
                return False
            self._config = replace(
                self._config,
                access_key=config.access_key,
                secret_key=config.secret_key,
                session_token=config.session_token,
            )
            self._signer = _signer(self._config)
            return True

    def _until(
        self,
        permit: Permit,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        body: Bytes | None,
        cancel: Cancellation | None,
        *,
        certain: bool = True,
    ) -> Answer:
        """Send a request that the store refuses once a permit has ended.

        :param certain: whether all requests before were answered
        :raises PreconditionFailed: when it has
        :raises UnansweredDeletion: when it has, and one of them, or this one, was not answered at first
        """
        path = self._bucket_path + (uri_encode(self._prefix + key, "/") if key is not None else "")
        now = int(self.now())
        headers = {"host": self._host}
        if body is not None:
            headers["content-md5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        uncertain = False
        while now < permit.expires:
            signer = self._signer
            signed = signer.presign(
                method, path, query, self._host, datetime.fromtimestamp(now, UTC), int(permit.expires) - now
            )
            subject = self._name(key or "")
            answer = self._requester.request(
                method, f"{path}?{signed}", lambda: headers, body, subject=subject, cancel=cancel
            )
            uncertain = uncertain or answer.uncertain
            if answer.status == 403 and self.now() >= permit.expires - _CLOCK_STEP:
                break
            if not self._is_worth_repeating(answer, signer):
                return replace(answer, uncertain=uncertain)
            now = int(self.now())
        kind = UnansweredDeletion if uncertain or not certain else PreconditionFailed
        raise kind(f"The lease {self._name(permit.key)} has expired")

    def _put(self, key: str, data: Bytes, headers: Mapping[str, str], cancel: Cancellation | None = None) -> Answer:
        cache_control, content_type = headers_for(key)
        defaults = {"cache-control": cache_control, "content-type": content_type, **self._acl}
        return self._request("PUT", key, {**defaults, **headers}, data, cancel=cancel)

    def _put_conditionally(self, key: str, data: Bytes, condition: Mapping[str, str], otherwise: str) -> Version:
        try:
            answer = self._put(key, data, condition)
        except EndpointUnreachable as error:
            raise EndpointUnreachable(
                f"{error.message}; it is not known whether {key} was written",
                remedy="Look at the repository when the store is well, then run the command again",
            ) from error
        refused = answer.status == 412 or (answer.status == 404 and answer.code != "NoSuchBucket")
        if not refused:
            return self._done("write", key, answer)
        if answer.uncertain:
            # An earlier attempt may have succeeded without our hearing of it; then the object is what we wrote.
            with contextlib.suppress(ObjectNotFound):
                current, version = self.get_versioned(key)
                if current == data:
                    return version
            raise OvertakenWrite(
                f"{self._name(key)} {otherwise}; whether ours was there for a time is not known",
                remedy="Look at the repository, then run the command again if need be",
            )
        raise PreconditionFailed(f"{self._name(key)} {otherwise}")

    def _probe_conditions(self) -> ConditionForm:
        """Find out, on an object of its own, which form of ``If-Match`` the endpoint honours."""
        key = f".cvmfs_probe-{os.getpid()}-{secrets.token_hex(8)}"
        stale = self.put(key, b"1")
        try:
            current = self.put(key, b"2")
            for form in _FORMS:
                if self._put(key, b"3", {"if-match": _etag(stale, form)}).status < 300:
                    break  # conditions are ignored, and so they would be in the other form
                if self._put(key, b"2", {"if-match": _etag(current, form)}).status < 300:
                    return form
        finally:
            self.delete(key)
        raise StorageError(
            f"{self.describe()} does not honour If-Match on PUT",
            remedy="Publishing to it would not be safe; use a store with conditional writes, such as Ceph 16 or later",
        )

    def _done(self, action: str, key: str, answer: Answer) -> Version:
        if answer.status not in (200, 201, 204):
            raise self._error(action, key, answer)
        return _version(answer)

    def _error(self, action: str, key: str, answer: Answer) -> StorageError:
        """Return the error that an answer means."""
        status, code = answer.status, answer.code
        text = f"Cannot {action} {self._name(key)} at {self._config.endpoint}: {code or 'status'} ({status})"
        if code == "NoSuchBucket":
            return StorageError(
                f"There is no bucket {self._config.bucket} at {self._config.endpoint}",
                remedy="Create it, or correct CVMFS_S3_BUCKET and CVMFS_S3_DNS_BUCKETS",
            )
        if code in _QUOTA_CODES or status == 507:
            return QuotaExceeded(text, remedy="Raise the quota of the bucket or its user, or collect garbage")
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            remedy = _DENIED.get(code, "Check that the bucket's policy lets this user read, write and delete")
            return AccessDenied(text, remedy=remedy)
        if status == 404:
            return ObjectNotFound(f"There is no {self._name(key)} at {self._config.endpoint}")
        if code == "EntityTooLarge" or status == 413:
            chunks = "CVMFS_USE_FILE_CHUNKING=true and CVMFS_GENERATE_LEGACY_BULK_CHUNKS=false"
            return StorageError(text, remedy=f"Have large files stored in chunks only: set {chunks}")
        if status in (301, 307, 308):
            return StorageError(text, remedy="Check CVMFS_S3_REGION and CVMFS_S3_HOST: the bucket is elsewhere")
        if code == "AccessControlListNotSupported":
            return StorageError(text, remedy='Set CVMFS_S3_X_AMZ_ACL="", and give the bucket a read policy')
        return StorageError(text, remedy="Look for this error in the store's documentation")

    def _failed_keys(self, answer: Answer) -> Sequence[str]:
        """Return the keys that the answer to a deletion of many objects names as not deleted, absent ones left out.

        :raises StorageError: when it is none
        """
        try:
            result = ElementTree.fromstring(answer.response.body)  # noqa: S314  (from the store itself)
        except ElementTree.ParseError:
            result = None
        if result is None or _plain_tag(result) != "DeleteResult":
            raise StorageError(
                f"{self.describe()} does not say which objects it has deleted: its answer is no DeleteResult",
                remedy="Look for what else answers at that address, such as a proxy; then run the command again",
            )
        failed = []
        for item in result:
            text = {_plain_tag(child): child.text or "" for child in item}
            if _plain_tag(item) == "Error" and text.get("Code") != "NoSuchKey":
                failed.append(text.get("Key", ""))
        return failed

    def _name(self, key: str) -> str:
        return f"s3://{self._config.bucket}/{self._prefix}{key}"


def _plain_tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _signer(config: S3Config) -> Signer:
    return Signer(config.access_key, config.secret_key, config.region, config.session_token)


def _signed(
    signer: Signer, method: str, path: str, query: str, headers: Mapping[str, str], digest: str
) -> dict[str, str]:
    return signer.sign(method, path, query, headers, digest, datetime.now(UTC))


def _credentials(config: S3Config) -> tuple[str, str, str]:
    return config.access_key, config.secret_key, config.session_token


def _version(answer: Answer) -> Version:
    return Version(answer.response.headers.get("etag", "").strip('"'))


def _etag(version: Version, form: ConditionForm) -> str:
    return f'"{version}"' if form == "quoted" else version
