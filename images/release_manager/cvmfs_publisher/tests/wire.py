# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP proxy in front of a real S3 service that breaks requests as told.

It can also stand in for other services: what it lets through is signed anew, so it may rewrite headers and paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

from cvmfs_publisher.storage import S3Config
from cvmfs_publisher.storage.sigv4 import Signer


@dataclass
class Request:
    """What a client sent; `target` is as it stood on the request line."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Fate:
    """What becomes of a request.

    :param forward: whether the service gets it
    :param delay: seconds before the client gets anything
    :param answer: sent instead of the service's answer; empty closes the connection without any
    :param cut: closes the connection after that many bytes of the answer
    """

    forward: bool = True
    delay: float = 0.0
    answer: bytes | None = None
    cut: int | None = None


def answer(status: int, code: str = "", **headers: str) -> bytes:
    """Return an S3 service's answer with an error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode() if code else b""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


PASS = Fate()
DROP = Fate(forward=False, answer=b"")
LOSE = Fate(answer=b"")
UNAVAILABLE = Fate(forward=False, answer=answer(503, "ServiceUnavailable"))
LOSE_AND_SAY_503 = Fate(answer=answer(503, "ServiceUnavailable"))


@dataclass
class Proxy:
    """Runs as long as the ``with`` block. Listens on 127.0.0.1.

    :ivar plan: fates of the next requests, used up from the front; later requests pass
    :ivar rule: decides about a request after the plan is used up; may change it
    :ivar requests: everything that came in
    :ivar connections: number of connections accepted
    """

    service: S3Config
    plan: list[Fate] = field(default_factory=list)
    rule: Callable[[Request], Fate] = lambda _: PASS
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._signer = Signer(self.service.access_key, self.service.secret_key, "us-east-1")
        self._upstream = f"{self.service.host}:{self.service.port}"
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def hang_up(self) -> None:
        """Break all connections."""
        with self._lock:
            for sock in list(self._open):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException), contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            if self.tls is not None:
                sock = stack.enter_context(self.tls.wrap_socket(sock, server_side=True))
            with self._lock:
                self._open.add(sock)
            stack.callback(self._open.discard, sock)
            stream = stack.enter_context(sock.makefile("rb"))
            while request := _read_request(stream):
                if not self._answer(sock, request):
                    return

    def _answer(self, sock: socket.socket, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
            fate = self.plan.pop(0) if self.plan else None
        if fate is None:
            fate = self.rule(request)
        reply = self._forward(request) if fate.forward else b""
        if fate.delay and self._stop.wait(fate.delay):
            return False
        if fate.answer is not None:
            reply = fate.answer
        sock.sendall(reply[: fate.cut])
        return bool(reply) and fate.cut is None

    def _forward(self, request: Request) -> bytes:
        target = request.target
        if target.startswith("http://"):  # as a proxy gets it, for a bucket that is part of the host's name
            parts = urlsplit(target)
            bucket = (parts.hostname or "").partition(".")[0]
            target = f"/{bucket}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        path, _, query = target.partition("?")
        kept = {
            name: value
            for name, value in request.headers.items()
            if name not in ("authorization", "x-amz-date", "x-amz-content-sha256", "content-length", "host")
        }
        headers = kept
        if "X-Amz-Signature=" in query:  # such a request ends when its sender says so, and is not signed anew
            headers = {**kept, "host": request.headers["host"]}
        if "authorization" in request.headers:
            digest = hashlib.sha256(request.body).hexdigest()
            headers = self._signer.sign(
                request.method, path, query, {**kept, "host": self._upstream}, digest, datetime.now(UTC)
            )
        connection = http.client.HTTPConnection(self.service.host, self.service.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(request.method, target, request.body or None, headers)
            response = connection.getresponse()
            body = response.read()
            lines = [f"HTTP/1.1 {response.status} {response.reason}"]
            lines += [
                f"{name}: {value}"
                for name, value in response.getheaders()
                if name.lower() not in ("transfer-encoding", "content-length", "connection")
            ]
            length = response.getheader("content-length", "0") if request.method == "HEAD" else str(len(body))
            lines.append(f"Content-Length: {length}")
            return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _read_request(stream: object) -> Request | None:
    readline, read = stream.readline, stream.read  # type: ignore[attr-defined]
    line = readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while (header := readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line[0], line[1], headers, read(int(headers.get("content-length", "0"))))


@contextlib.contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block was entered."""
    begin = time.monotonic()
    yield lambda: time.monotonic() - begin
