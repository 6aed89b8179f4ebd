# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository as its clients see it: by anonymous HTTP, for reading only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn, Self
from urllib.parse import urlsplit

from ..errors import AccessDenied, ConfigurationError, ObjectNotFound, StorageError
from .http_client import HttpClient
from .requester import Requester, ranges
from .retry import RetryPolicy
from .sigv4 import uri_encode
from .store import ObjectInfo, Version

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from .cancellation import Cancellation
    from .requester import Answer
    from .store import Bytes, Permit, Traffic


class HttpStore:
    """A read-only object store behind a web server, an S3 bucket with public objects included.

    :param url: the repository's root, e.g. ``http://stratum0.example.org/cvmfs/demo.example.org``
    :param timeout: seconds without progress after which an attempt is given up
    :param context: for https
    :param notify: gets a line of text when requests have to be repeated, now and then
    :raises ConfigurationError: when the URL is none
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30,
        retry: RetryPolicy | None = None,
        context: ssl.SSLContext | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigurationError(
                "The repository's address is not an HTTP URL", remedy="Write it as http://host/path"
            )
        self._url = url.rstrip("/")
        self._host = parts.netloc
        self._path = parts.path.rstrip("/")
        client = HttpClient(url, timeout=timeout, context=context)
        self._requester = Requester(client, retry or RetryPolicy(), f"{parts.scheme}://{parts.netloc}", notify)

    @property
    def concurrency(self) -> int:
        return 16

    @property
    def traffic(self) -> Traffic:
        return self._requester.traffic

    def get(self, key: str) -> bytes:
        return self.get_versioned(key)[0]

    def get_in_parts(self, key: str, part_size: int) -> Iterator[bytes]:
        return ranges(
            lambda headers: self._request("GET", key, headers), part_size, lambda answer: self._error(key, answer)
        )

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        answer = self._request("GET", key)
        if answer.status != 200:
            raise self._error(key, answer)
        return answer.response.body, Version(answer.response.headers.get("etag", "").strip('"'))

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        answer = self._request("HEAD", key)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._error(key, answer)
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
        del data, cache_control, content_type, cancel
        self._refuse(key)

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        del data
        self._refuse(key)

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        del data, version
        self._refuse(key)

    def delete(self, key: str) -> None:
        self._refuse(key)

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        del permit, cancel
        self._refuse(keys[0])

    def now(self) -> float:
        return time.time()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise StorageError(
            f"The objects {self._url}/{prefix}… cannot be listed by plain HTTP",
            remedy="Use the storage's own interface",
        )

    def describe(self) -> str:
        return self._url

    def close(self) -> None:
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, method: str, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self._requester.request(
            method,
            f"{self._path}/{uri_encode(key, '/')}",
            lambda: {"host": self._host, **(headers or {})},
            subject=f"{self._url}/{key}",
        )

    def _error(self, key: str, answer: Answer) -> StorageError:
        if answer.status == 404:
            return ObjectNotFound(f"There is no {self._url}/{key}")
        text = f"Cannot read {self._url}/{key}: {answer.code or 'status'} ({answer.status})"
        if answer.status in (401, 403):
            return AccessDenied(text, remedy="Let everybody read the repository, or correct its address")
        return StorageError(text, remedy="Check the repository's address")

    def _refuse(self, key: str) -> NoReturn:
        raise StorageError(f"{self._url}/{key} can only be read", remedy="Write to the repository's storage instead")
