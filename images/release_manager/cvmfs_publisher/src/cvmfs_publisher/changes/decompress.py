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
    from _typeshed import WriteableBuffer

_BUFFER = 1 << 20
_ZSTD_WINDOW = 1 << 27
"""Bytes of memory that an archive may ask for; what the zstd command allows without options."""


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
    if start.startswith(b"\x1f\x8b"):
        inner = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    elif start.startswith(b"BZh"):
        inner = cast(BinaryIO, bz2.BZ2File(raw))
    elif start.startswith(b"\xfd7zXZ\0"):
        inner = cast(BinaryIO, lzma.LZMAFile(raw))  # noqa: SIM115  (the caller reads it)
    elif start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50):
        # Parallel writers begin with a frame of the second kind, which is skipped.
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        inner = cast(BinaryIO, decompressor.stream_reader(raw, read_across_frames=True))
    else:
        return raw
    return io.BufferedReader(_Translated(inner, label, compressed=True), _BUFFER)


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
