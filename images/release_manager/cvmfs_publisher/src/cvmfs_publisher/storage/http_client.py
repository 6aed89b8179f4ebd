# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 requests over kept-alive connections.

Made for many small requests from many threads: head and small body leave in one packet, connections are shared, and
answers are parsed without the standard library's mail parser, which takes longer than all the rest. Stalls are noticed
by lack of progress, not by total time, and another thread can break off a request. ``benchmarks/s3_put.py`` compares
it with a native client.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import http.client
import select
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cancellation import Cancellation
    from .store import Bytes

_SLICE = 256 << 10  # bytes sent at a time; each has the whole timeout
_ONE_PACKET = 32 << 10  # bodies up to here are copied behind the head
_RECEIVE = 64 << 10  # bytes
_LONGEST_HEAD = 256 << 10  # bytes
_CONNECT_TIMEOUT = 10.0  # seconds


class TransportError(Exception):
    """There is no, or no complete, answer to a request.

    :param reason: for messages
    :param sent: whether the server may have received the request
    :param permanent: whether repeating it is in vain
    """

    def __init__(self, reason: str, *, sent: bool, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """Names are in lower case."""
    body: bytes


class HttpClient:
    """Sends requests to one server.

    :param url: scheme, host and port; nothing else of it is used
    :param timeout: seconds that an attempt may spend without making progress
    :param proxy: URL of an HTTP proxy
    :param context: for https
    """

    def __init__(
        self, url: str, *, timeout: float, proxy: str | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        self._tls = (context or tls_context()) if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._proxy = urlsplit(proxy) if proxy else None
        # A plain request through a proxy names the whole URL; an encrypted one goes through a tunnel.
        self._target_prefix = f"{parts.scheme}://{parts.netloc}" if self._proxy and not self._tls else ""
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: collections.deque[http.client.HTTPConnection] = collections.deque()
        self._closed = False

    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Bytes | None = None,
        *,
        timeout: float | None = None,
        cancel: Cancellation | None = None,
    ) -> Response:
        """Send one request and return the answer, whatever its status.

        :param target: path and query, percent-encoded
        :param headers: must contain ``host``
        :param timeout: seconds, instead of the client's when that is longer
        :param cancel: breaks the request off
        :raises TransportError: when there is no answer
        """
        limit = min(timeout or self._timeout, self._timeout)
        connection = self._connection(limit)
        reusable = False
        try:
            with _interruptible(connection.sock, cancel):
                response, reusable = _exchange(connection.sock, method, self._target_prefix + target, headers, body)
            return response
        except (OSError, ValueError, http.client.HTTPException) as error:
            if cancel is not None and cancel.is_set():
                raise TransportError("broken off", sent=True, permanent=True) from None
            raise TransportError(_reason(error, limit), sent=True) from error
        finally:
            if reusable:
                self._give_back(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close idle connections, and the others when they become idle."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, collections.deque()
        for connection in idle:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect(timeout)
            if not _has_input(connection.sock):  # the server closes an idle connection, or says that it will
                connection.sock.settimeout(timeout)
                return connection
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._host, self._port
        if self._proxy:
            host, port = self._proxy.hostname or "", self._proxy.port or 80
        limit = min(timeout, _CONNECT_TIMEOUT)
        if self._tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=limit, context=self._tls
            )
            if self._proxy:
                connection.set_tunnel(self._host, self._port)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=limit)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise TransportError(
                f"its certificate is not trusted ({error.verify_message})", sent=False, permanent=True
            ) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TransportError(_reason(error, limit), sent=False) from error
        connection.sock.settimeout(timeout)
        return connection

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def tls_context(ca_bundle: str | None = None, ca_path: str | None = None) -> ssl.SSLContext:
    """Return what encrypted connections need: the system's certificate authorities, and these.

    OpenSSL's ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace the system's.

    :raises ConfigurationError: when the bundle or the directory cannot be used
    """
    context = ssl.create_default_context()
    if ca_bundle or ca_path:
        try:
            context.load_verify_locations(ca_bundle, ca_path)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot use the certificate authorities in {ca_bundle or ca_path}: {error}",
                remedy="Correct X509_CERT_BUNDLE and X509_CERT_DIR",
            ) from None
    return context


def _exchange(
    sock: socket.socket, method: str, target: str, headers: Mapping[str, str], body: Bytes | None
) -> tuple[Response, bool]:
    """Send a request and return the answer, and whether the connection can be used again."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    failure = None
    try:
        if body is None or len(body) <= _ONE_PACKET:
            sock.sendall(head + bytes(body or b""))
        else:
            sock.sendall(head)
            with memoryview(body) as view:
                for start in range(0, len(view), _SLICE):
                    sock.sendall(view[start : start + _SLICE])
    except ConnectionError as error:
        failure = error  # a server that answers early closes the connection; the answer says why
    try:
        response, reusable = _receive(_Input(sock), method)
    except (OSError, http.client.HTTPException):
        if failure is not None:
            raise failure from None
        raise
    return response, reusable and failure is None


def _receive(stream: _Input, method: str) -> tuple[Response, bool]:
    """Read an answer (RFC 9112)."""
    status = 100
    while status < 200:
        lines = stream.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise http.client.BadStatusLine(lines[0][:80])
        status = int(rest[:3])
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    reusable = version != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    if method == "HEAD" or status in (204, 304):
        return Response(status, headers, b""), reusable
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, headers, _chunked(stream)), reusable
    length = headers.get("content-length")
    if length is None:
        return Response(status, headers, stream.rest()), False
    if not length.isdigit():
        raise http.client.HTTPException("its answer has no proper length")
    return Response(status, headers, stream.exactly(int(length))), reusable


def _chunked(stream: _Input) -> bytes:
    body = []
    while True:
        size = int(stream.until(b"\r\n").partition(b";")[0], 16)
        if not size:
            break
        body.append(stream.exactly(size))
        stream.exactly(2)
    while stream.until(b"\r\n"):
        pass  # trailers
    return b"".join(body)


class _Input:
    """What comes in on a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def until(self, mark: bytes) -> bytes:
        """Return everything before `mark`, and go on behind it."""
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                raise http.client.HTTPException("its answer has no end of the head")
            self._more()
        found, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        return found

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if len(self._buffer) >= size:
            found, self._buffer = self._buffer[:size], self._buffer[size:]
            return found
        data = bytearray(size)
        filled = len(self._buffer)
        data[:filled] = self._buffer
        self._buffer = b""
        with memoryview(data) as view:
            while filled < size:
                count = self._sock.recv_into(view[filled:])
                if not count:
                    raise http.client.IncompleteRead(b"", size - filled)
                filled += count
        return bytes(data)

    def rest(self) -> bytes:
        """Return everything until the server closes the connection."""
        parts = [self._buffer]
        while part := self._sock.recv(_RECEIVE):
            parts.append(part)
        return b"".join(parts)

    def _more(self) -> None:
        part = self._sock.recv(_RECEIVE)
        if not part:
            raise http.client.RemoteDisconnected("the connection broke down")
        self._buffer += part


def _has_input(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _interruptible(sock: socket.socket, cancel: Cancellation | None) -> contextlib.AbstractContextManager[None]:
    if cancel is None:
        return contextlib.nullcontext()
    return cancel.interrupting(functools.partial(_break_off, sock))


def _break_off(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which is not safe while in use


def _reason(error: Exception, timeout: float) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {timeout:.0f} s"
        case socket.gaierror():
            return f"its name cannot be resolved ({error.strerror})"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionError() | http.client.IncompleteRead():
            return "the connection broke down"
        case OSError() if error.strerror:
            return error.strerror
    return str(error) or type(error).__name__
