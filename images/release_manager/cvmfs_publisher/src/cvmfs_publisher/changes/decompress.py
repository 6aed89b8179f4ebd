# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening tar streams, whatever they are compressed with."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import select
import threading
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard

from ..errors import UnreadableSource, UnsafeArchive

if TYPE_CHECKING:
    from collections.abc import Generator

    from _typeshed import WriteableBuffer

_BUFFER = 1 << 20
_ZSTD_WINDOW = 1 << 27
"""Bytes of memory that an archive may ask for; what the zstd command allows without options."""


_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"

_LONGEST_FIELD = 4
"""Bytes of what has to be read of a zstd frame in order to find its end."""

_LOOK = 100
"""Milliseconds between two looks whether reading has been called off."""


class InterruptibleStream(io.RawIOBase):
    """A stream that another thread can stop reading of, also while nothing comes out of it.

    :param stream: a file, pipe or anything else; it is not closed
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._read = getattr(stream, "read1", stream.read)  # does not wait for more than there is
        self._stopped = threading.Event()
        self._reading = threading.Lock()
        self._poll: select.poll | None = None
        try:
            descriptor = stream.fileno()
        except (OSError, AttributeError):  # in memory, or part of another file
            return
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        with self._reading:
            while not self._stopped.is_set():
                if self._poll is None or self._poll.poll(_LOOK):
                    data = self._read(len(view))
                    view[: len(data)] = data
                    return len(data)
        raise OSError(errno.ECANCELED, "reading was called off")

    def stop(self) -> None:
        """Let reading fail from now on, and return when nobody is at it any more."""
        self._stopped.set()
        with self._reading:
            pass


def is_compressed(start: bytes) -> bool:
    """Say whether the first six bytes are those of something compressed."""
    # Parallel writers of zstd begin with a frame of another kind, which is skipped
    is_skipped = start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50
    return is_skipped or start.startswith((_GZIP, _BZIP2, _XZ, _ZSTD))


def open_tar_stream(stream: BinaryIO | InterruptibleStream, label: str) -> BinaryIO:
    """Return the uncompressed form of `stream`, for reading; the first bytes tell what it is compressed with.

    Where a compressed stream ends before its end mark, reading raises EOFError.

    :param stream: gzip, bzip2, xz, zstd, or anything else, which is handed through
    :param label: names the archive in messages
    :raises UnsafeArchive: (while reading) when the compressed form is damaged
    :raises UnreadableSource: (while reading) when the system cannot read it
    """
    raw = io.BufferedReader(_Translated(stream, label), _BUFFER)
    start = raw.peek(6)
    if not is_compressed(start):
        return raw
    if start.startswith(_GZIP):
        inner = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    elif start.startswith(_BZIP2):
        inner = cast(BinaryIO, bz2.BZ2File(raw))
    elif start.startswith(_XZ):
        inner = cast(BinaryIO, lzma.LZMAFile(raw))  # noqa: SIM115  (the caller reads it)
    else:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        whole = cast(BinaryIO, _WholeFrames(raw))
        inner = cast(BinaryIO, decompressor.stream_reader(whole, read_across_frames=True))
    return io.BufferedReader(_Translated(inner, label, compressed=True), _BUFFER)


class _WholeFrames:
    """A zstd stream that raises EOFError where it ends inside a frame, which the library takes for any other end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frame: Generator[int, bytes, None] | None = None
        self._start = b""
        """Of the current part of the frame."""
        self._missing = 0
        """Bytes of that part."""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data and self._frame is not None:
            raise EOFError
        position = 0
        while position < len(data):
            if self._frame is None:
                self._frame = _parts_of_frame()
                self._missing = next(self._frame)
            end = min(len(data), position + self._missing)
            if len(self._start) < _LONGEST_FIELD:
                self._start += data[position : min(end, position + _LONGEST_FIELD)]
            self._missing -= end - position
            position = end
            try:
                while not self._missing:
                    self._missing = self._frame.send(self._start)
                    self._start = b""
            except StopIteration:
                self._frame, self._start = None, b""
        return data


def _parts_of_frame() -> Generator[int, bytes, None]:
    """Yield the sizes of what a zstd frame consists of, one after the other, and get how each begins.

    The format is that of RFC 8878, section 3.1. What is wrong with it, the library says.
    """
    if (yield 4) != _ZSTD:  # a frame that is skipped
        yield int.from_bytes((yield 4), "little")
        return
    (flags,) = yield 1
    is_single_segment = flags >> 5 & 1
    yield (is_single_segment, 2, 4, 8)[flags >> 6] + (1 - is_single_segment) + (0, 1, 2, 4)[flags & 3]
    is_last = False
    while not is_last:
        block = int.from_bytes((yield 3), "little")
        is_last = bool(block & 1)
        is_run = block >> 1 & 3 == 1
        yield 1 if is_run else block >> 3
    yield 4 * (flags >> 2 & 1)


class _Translated(io.RawIOBase):
    """A stream whose errors name the archive."""

    def __init__(self, stream: BinaryIO | InterruptibleStream, label: str, *, compressed: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._label = label
        self._compressed = compressed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            data = self._stream.read(len(view)) or b""
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            if self._compressed:
                raise UnsafeArchive(
                    f"{self._label} is damaged: it cannot be decompressed ({error})",
                    remedy="Fetch or make the archive again",
                ) from None
            reason = error.strerror if isinstance(error, OSError) else error
            raise UnreadableSource(
                f"Cannot read {self._label}: {reason}", remedy="See whether its file system is in order"
            ) from error
        view[: len(data)] = data
        return len(data)
