# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are repeated for as long as that may help."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ..errors import EndpointUnreachable, StorageError
from .http_client import HttpClient, Response, TransportError
from .retry import Backoff, RetryPolicy
from .store import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .cancellation import Cancellation
    from .store import Bytes

_SHORTEST_TIMEOUT = 5.0  # seconds
_SLOW_SIZE = 64 << 10  # bytes; larger requests may well take longer than a first contact should
_NOTICE_INTERVAL = 10.0  # seconds between notices
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9]+)</Code>")
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentSHA256Mismatch",
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    :param code: S3's name of the error, if any
    :param uncertain: an earlier attempt got no answer, so the server may have acted on it
    """

    response: Response
    code: str
    uncertain: bool

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status


class Requester:
    """Sends requests to one server, and repeats them on 5xx, 429, timeouts and broken or refused connections.

    :param name: of the server, for messages
    :param notify: gets a line of text when a request has to be repeated, at most every ten seconds
    :ivar clock_offset: seconds by which the server's clock is ahead of ours, by the last answer; exact to a second
    """

    def __init__(
        self, client: HttpClient, policy: RetryPolicy, name: str, notify: Callable[[str], None] | None = None
    ) -> None:
        self._client = client
        self._policy = policy
        self._name = name
        self._notify = notify
        self._lock = threading.Lock()
        self._last_notice = float("-inf")
        self._answered = False
        self._date = ""
        self._requests = 0
        self._retries = 0
        self._seconds = 0.0
        self.clock_offset = 0.0

    @property
    def traffic(self) -> Traffic:
        """The requests so far that have ended."""
        with self._lock:
            return Traffic(self._requests, self._retries, self._seconds)

    def request(
        self,
        method: str,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        body: Bytes | None = None,
        *,
        subject: str,
        cancel: Cancellation | None = None,
    ) -> Answer:
        """Return the first answer that repeating the request would not change.

        :param headers: called for each attempt, since signatures carry the time
        :param subject: the object, for messages
        :raises EndpointUnreachable: when there is no such answer in time
        """
        backoff = Backoff(self._policy)
        try:
            return self._repeat(backoff, method, target, headers, body, subject, cancel)
        finally:
            with self._lock:
                self._requests += 1
                self._seconds += backoff.elapsed

    def _repeat(
        self,
        backoff: Backoff,
        method: str,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        body: Bytes | None,
        subject: str,
        cancel: Cancellation | None,
    ) -> Answer:
        uncertain = False
        slow = body is not None and len(body) > _SLOW_SIZE
        while True:
            retry_after = None
            permanent = False
            contacted = self._answered
            try:
                remaining = self._policy.first_contact - backoff.elapsed
                timeout = None if contacted or slow else max(_SHORTEST_TIMEOUT, remaining)
                response = self._client.exchange(method, target, headers(), body, timeout=timeout, cancel=cancel)
                self._answered = contacted = True
                self._read_clock(response)
                code = _error_code(response)
                if not _is_transient(response.status, code):
                    return Answer(response, code, uncertain)
                reason = f"status {response.status} {code}".rstrip()
                retry_after = _retry_after(response)
                uncertain = True
            except TransportError as error:
                reason, permanent = error.reason, error.permanent
                uncertain = uncertain or error.sent
                contacted = contacted or (slow and error.sent)
            delay = None if permanent else backoff.next(retry_after, contacted=contacted)
            if delay is not None:
                with self._lock:
                    self._retries += 1
                self._notice(reason)
                if cancel is None:
                    time.sleep(delay)
                else:
                    cancel.wait(delay)
            if cancel is not None and cancel.is_set():
                raise StorageError(f"{method} {subject} was broken off", remedy="Run the command again")
            if delay is None:
                raise self._unreachable(f"{method} {subject}", reason, backoff.elapsed)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_clock(self, response: Response) -> None:
        date = response.headers.get("date", "")
        if date and date != self._date:
            self._date = date
            with contextlib.suppress(ValueError):
                self.clock_offset = parsedate_to_datetime(date).timestamp() - time.time()

    def _unreachable(self, action: str, reason: str, elapsed: float) -> EndpointUnreachable:
        if "certificate" in reason:
            remedy = "Name the file with its certificate authority in X509_CERT_BUNDLE"
        elif self._answered:
            remedy = "Run the command again when the store is well; nothing of the old revision is lost"
        else:
            remedy = "Check that the address in the configuration is right and that the store is up"
        time_spent = f" for {elapsed:.0f} s" if elapsed >= 1 else ""
        return EndpointUnreachable(f"{action} at {self._name} failed{time_spent}: {reason}", remedy=remedy)

    def _notice(self, reason: str) -> None:
        now = time.monotonic()
        with self._lock:
            if self._notify is None or now - self._last_notice < _NOTICE_INTERVAL:
                return
            self._last_notice = now
        limit = self._policy.total if self._answered else self._policy.first_contact
        self._notify(f"{self._name}: {reason}; trying again for up to {limit:.0f} s")


def ranges(
    get: Callable[[Mapping[str, str]], Answer],
    part_size: int,
    error: Callable[[Answer], StorageError],
    replaced: StorageError | None = None,
) -> Iterator[bytes]:
    """Yield what a URL has, by requests for one range of bytes each (RFC 9110, section 14).

    :param get: sends a request with these headers
    :param part_size: bytes of a range
    :param error: what an answer means that is none of those for ranges
    :param replaced: raised when ranges have different ETags. None where they may, as with several web servers
    """
    start = 0
    first = None
    while True:
        answer = get({"range": f"bytes={start}-{start + part_size - 1}"})
        body = answer.response.body
        etag = answer.response.headers.get("etag")
        if replaced is not None and first is not None and answer.status in (200, 206) and etag != first:
            raise replaced
        first = etag
        if answer.status == 416:
            return  # the object ends where this range begins
        if answer.status == 200:
            yield body[start:]  # a server that knows no ranges sends everything
            return
        if answer.status != 206:
            raise error(answer)
        yield body
        start += len(body)
        if len(body) < part_size:
            return


def _error_code(response: Response) -> str:
    if response.status < 400:
        return ""
    match = _ERROR_CODE.search(response.body)
    return match[1].decode("ascii") if match else ""


def _is_transient(status: int, code: str) -> bool:
    return status == 429 or (status >= 500 and status not in (501, 505, 507)) or code in _TRANSIENT_CODES


def _retry_after(response: Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
