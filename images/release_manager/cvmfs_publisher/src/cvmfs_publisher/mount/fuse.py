# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: answers the kernel's requests from a view of a revision.

A revision never changes, so the kernel may keep all that it was told: names, also of what there is not, attributes,
pages, directories, symbolic links. Opening needs no request at all. What was looked at once is served by the kernel
alone, for as long as it has memory; this process is asked again only after that.

One thread reads requests and answers those that local disk can answer. What needs the object store goes to a pool, so
that nobody waits for somebody else's download.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import paths
from ..errors import MountError, PublisherError
from . import protocol
from .cache import NotAtHand
from .protocol import Feature, Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from .view import Listed, RevisionView

Report = Callable[[str], None] if TYPE_CHECKING else None

_WAITERS = 16
"""Requests that may wait for the object store at a time."""

_READ_AHEAD = 1 << 20  # bytes
_LISTED_AT_LEAST = 128 + 24 + 8  # bytes that an entry of a directory takes with its attributes
_REPORT_AGAIN = 60.0  # seconds after which the same trouble with the same node is worth another line
_REPORTS_KEPT = 1000

_NO_REPLY = object()

_READING = frozenset({Operation.READ, Operation.READLINK, Operation.READDIR, Operation.READDIRPLUS})


class Server:
    """Serves one mount.

    :param view: what it shows
    :param device: from `device.mount`; closed at the end
    :param report: gets a line of text when somebody could not read something because of repository or storage
    """

    def __init__(self, view: RevisionView, device: int, report: Callable[[str], None]) -> None:
        self._view = view
        self._device = device
        self._report = report
        self._generation = int(time.time()) & 0x7FFF_FFFF  # file handles of an earlier mount are void
        self._features = Feature(0)
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._reported: OrderedDict[str, float] = OrderedDict()
        self._handlers: dict[int, Callable[[int, bytes, bool], bytes]] = {
            Operation.LOOKUP: self._lookup,
            Operation.GETATTR: self._getattr,
            Operation.READLINK: self._readlink,
            Operation.OPEN: self._open,
            Operation.READ: self._read,
            Operation.STATFS: self._statfs,
            Operation.GETXATTR: self._getxattr,
            Operation.LISTXATTR: self._listxattr,
            Operation.OPENDIR: self._opendir,
            Operation.READDIR: self._readdir,
            Operation.READDIRPLUS: self._readdirplus,
            Operation.IOCTL: self._ioctl,
            Operation.DESTROY: self._destroy,
        }

    def handshake(self) -> None:
        """Answer the kernel's first request.

        :raises MountError: when the kernel is too old
        """
        while True:
            request = os.read(self._device, protocol.BUFFER_SIZE)
            _, operation, unique, *_ = protocol.HEADER.unpack_from(request)
            if operation != Operation.INIT:
                self._answer(unique, b"", errno.EIO)
                continue
            major, minor, read_ahead, self._features = protocol.parse_init(request[protocol.HEADER.size :])
            if major > protocol.MAJOR:
                self._answer(unique, protocol.init_other_major())
                continue
            if (major, minor) < (protocol.MAJOR, protocol.OLDEST_MINOR):
                self._answer(unique, b"", errno.EPROTO)
                raise MountError(
                    f"This kernel speaks version {major}.{minor} of the FUSE protocol",
                    remedy=f"Use Linux 4.20 or later ({protocol.MAJOR}.{protocol.OLDEST_MINOR})",
                )
            self._answer(unique, protocol.init(min(read_ahead, _READ_AHEAD), self._features))
            return

    def run(self) -> None:
        """Serve until the file system is unmounted."""
        pool = ThreadPoolExecutor(_WAITERS, thread_name_prefix="waiter")
        try:
            while (request := self._next()) is not None:
                _, operation, unique, node, *_ = protocol.HEADER.unpack_from(request)
                body = request[protocol.HEADER.size :]
                if operation in (Operation.FORGET, Operation.BATCH_FORGET):
                    continue  # nothing was remembered
                if operation == Operation.INTERRUPT:
                    self._interrupt(body)
                    continue
                try:
                    self._handle(operation, unique, node, body, wait=False)
                except NotAtHand:
                    with self._lock:
                        self._waiting.add(unique)
                    pool.submit(self._handle_later, operation, unique, node, body)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Close the device, which ends the file system if it is still mounted."""
        os.close(self._device)

    # Requests and answers

    def _next(self) -> bytes | None:
        while True:
            try:
                return os.read(self._device, protocol.BUFFER_SIZE)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return None
                if error.errno == errno.EAGAIN:
                    select.select([self._device], [], [])
                elif error.errno not in (errno.ENOENT, errno.EINTR):  # the request was taken back
                    raise

    def _handle_later(self, operation: int, unique: int, node: int, body: bytes) -> None:
        self._handle(operation, unique, node, body, wait=True)

    def _handle(self, operation: int, unique: int, node: int, body: bytes, *, wait: bool) -> None:
        handler = self._handlers.get(operation)
        if handler is None:
            # The kernel takes that for "has no such operation", and does not ask again
            self._answer(unique, b"", errno.ENOSYS)
            return
        try:
            answer, error = handler(node, body, wait), 0
        except NotAtHand:
            raise
        except OSError as failure:
            answer, error = b"", failure.errno or errno.EIO
        except PublisherError as failure:
            self._complain(node, body if operation == Operation.LOOKUP else b"", failure)
            answer, error = b"", errno.EIO
        except Exception as failure:
            self._complain(node, b"", failure)
            answer, error = b"", errno.EIO
        if wait:
            with self._lock:
                if unique not in self._waiting:
                    return  # interrupted, and answered
                self._waiting.discard(unique)
        self._answer(unique, answer, error)

    def _answer(self, unique: int, answer: bytes, error: int = 0) -> None:
        # Fails when who asked was killed, or the file system was unmounted
        with contextlib.suppress(OSError):
            os.writev(self._device, (protocol.answer_header(unique, len(answer), error), answer))

    def _interrupt(self, body: bytes) -> None:
        (unique,) = protocol.INTERRUPT_IN.unpack_from(body)
        with self._lock:
            if unique not in self._waiting:
                return
            self._waiting.discard(unique)
        self._answer(unique, b"", errno.EINTR)

    def _complain(self, node: int, name: bytes, failure: Exception) -> None:
        """Report a failure, but not each time that a program tries again."""
        try:
            path = self._view.path(node)
            if name:
                path = paths.join(path, name.rstrip(b"\0"))
            text = f"/{paths.display(path)}: {failure if isinstance(failure, PublisherError) else repr(failure)}"
        except (PublisherError, OSError):
            text = str(failure)
        now = time.monotonic()
        with self._lock:
            if now - self._reported.get(text, -_REPORT_AGAIN) < _REPORT_AGAIN:
                return
            self._reported[text] = now
            if len(self._reported) > _REPORTS_KEPT:
                self._reported.popitem(last=False)
        self._report(text)

    # Operations: node, body of the request, whether to wait for the object store

    def _lookup(self, node: int, body: bytes, wait: bool) -> bytes:
        found = self._view.lookup(node, body[: body.index(b"\0")], wait=wait)
        return protocol.no_entry() if found is None else protocol.entry(found, self._generation)

    def _getattr(self, node: int, body: bytes, wait: bool) -> bytes:
        del body
        return protocol.attributes_only(self._view.attributes(node, wait=wait))

    def _readlink(self, node: int, body: bytes, wait: bool) -> bytes:
        del body
        return self._view.target(node, wait=wait)

    def _open(self, node: int, body: bytes, wait: bool) -> bytes:
        del node, body, wait
        if Feature.NO_OPEN_SUPPORT in self._features:
            raise OSError(errno.ENOSYS, "no request is needed to open")
        return protocol.OPEN_OUT.pack(0, protocol.KEEP_CACHE, 0)

    def _opendir(self, node: int, body: bytes, wait: bool) -> bytes:
        del node, body, wait
        if Feature.NO_OPENDIR_SUPPORT in self._features:
            raise OSError(errno.ENOSYS, "no request is needed to open")
        return protocol.OPEN_OUT.pack(0, protocol.KEEP_CACHE | protocol.CACHE_DIRECTORY, 0)

    def _read(self, node: int, body: bytes, wait: bool) -> bytes:
        _, offset, size = protocol.READ_IN.unpack_from(body)
        return self._view.read(node, offset, size, wait=wait)

    def _readdir(self, node: int, body: bytes, wait: bool) -> bytes:
        return self._listing(node, body, wait, protocol.directory_entry)

    def _readdirplus(self, node: int, body: bytes, wait: bool) -> bytes:
        def line(listed: Listed) -> bytes:
            return protocol.directory_entry_plus(listed, self._generation)

        return self._listing(node, body, wait, line)

    def _listing(self, node: int, body: bytes, wait: bool, line: Callable[[Listed], bytes]) -> bytes:
        _, offset, size = protocol.READ_IN.unpack_from(body)
        lines = []
        for listed in self._view.listing(node, offset, max(size // _LISTED_AT_LEAST, 1), wait=wait):
            text = line(listed)
            size -= len(text)
            if size < 0:
                break
            lines.append(text)
        return b"".join(lines)

    def _statfs(self, node: int, body: bytes, wait: bool) -> bytes:
        del node, body, wait
        total = self._view.statistics.total
        return protocol.statfs(total.entries - total.nested, total.file_size)

    def _getxattr(self, node: int, body: bytes, wait: bool) -> bytes:
        self._require_xattrs()
        size, _ = protocol.GETXATTR_IN.unpack_from(body)
        name = body[protocol.GETXATTR_IN.size : body.index(b"\0", protocol.GETXATTR_IN.size)]
        return _sized(self._view.xattr(node, name, wait=wait), size)

    def _listxattr(self, node: int, body: bytes, wait: bool) -> bytes:
        self._require_xattrs()
        size, _ = protocol.GETXATTR_IN.unpack_from(body)
        return _sized(b"".join(name + b"\0" for name in self._view.xattr_names(node, wait=wait)), size)

    def _require_xattrs(self) -> None:
        if not self._view.has_xattrs:
            raise OSError(errno.ENOSYS, "the kernel need not ask again")

    def _ioctl(self, node: int, body: bytes, wait: bool) -> bytes:
        del node, body, wait
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def _destroy(self, node: int, body: bytes, wait: bool) -> bytes:
        del node, body, wait
        return b""


def _sized(value: bytes, size: int) -> bytes:
    """Return an attribute's value, or its length when the asker has no buffer yet."""
    if not size:
        return protocol.GETXATTR_IN.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
