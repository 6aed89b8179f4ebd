# SPDX-License-Identifier: GPL-3.0-or-later
"""Content-defined chunks of large files.

A file is cut where a checksum over the last 32 bytes takes one of a few values, so that equal content is cut at equal
places, wherever in a file it stands. The rule is part of CernVM-FS's format: the same content published by any
publisher should become the same chunks. Let ``x`` be the 32-bit checksum ``x = (x << 1) ^ byte`` up to and
including a byte, and ``d = x - (2**31 - 1)``, wrapped to a signed 32-bit number. A cut is made before that byte if
``abs(d) < (2**32 - 1) // average``, but never closer than `minimum` to the previous cut, and at the latest `maximum`
after it. (``abs`` leaves the lowest number, -2**31, as it is, so that it counts as a cut as well.)
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

_WINDOW = 32
_CENTRE = 2**31 - 1
_BLOCK = 1 << 16  # bytes checked at a time: the intermediate arrays then fit into a core's cache
STEP = 1 << 20  # bytes read between two searches


class Reader(Protocol):
    """What content is read from; every binary file object is one."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer as far as possible and return the number of bytes; 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Chunking:
    """Sizes of chunks, in bytes: ``CVMFS_MIN_CHUNK_SIZE``, ``CVMFS_AVG_CHUNK_SIZE``, ``CVMFS_MAX_CHUNK_SIZE``."""

    minimum: int = 4 << 20
    average: int = 8 << 20
    maximum: int = 16 << 20

    def __post_init__(self) -> None:
        if not _WINDOW <= self.minimum < self.average < self.maximum:
            raise ConfigurationError(
                f"Chunk sizes {self.minimum}, {self.average}, {self.maximum} are not in order",
                remedy="Set CVMFS_MIN_CHUNK_SIZE < CVMFS_AVG_CHUNK_SIZE < CVMFS_MAX_CHUNK_SIZE, at least 32 bytes",
            )


def cut(reader: Reader, chunking: Chunking, start: memoryview | bytes = b"") -> Iterator[tuple[memoryview, bool]]:
    """Yield the chunks of a stream, one after the other, each with whether it is the last.

    At most `maximum` + `STEP` bytes are in memory at a time, besides the chunks that the caller keeps.

    :param reader: the stream
    :param chunking: sizes; a stream of no more than the minimum is a single chunk
    :param start: what the caller has read from the stream already
    """
    cutter = _Cutter(reader, chunking, bytes(start))
    while not cutter.at_end:
        yield cutter.next(), cutter.at_end


class _Cutter:
    """Reads chunks. Keeps no reference to those that it has returned, so that memory is the caller's to give back."""

    def __init__(self, reader: Reader, chunking: Chunking, start: bytes) -> None:
        self._reader = reader
        self._chunking = chunking
        self._search = _Search(chunking)
        self._rest = start
        self.at_end = False

    def next(self) -> memoryview:
        # Pages of its own, not the allocator's: taken up as they fill, and given back when the chunk is gone.
        buffer = memoryview(mmap.mmap(-1, self._chunking.maximum + STEP))
        filled = len(self._rest)
        buffer[:filled] = self._rest
        searched = self._chunking.minimum
        end = None
        while end is None:
            if filled > searched:
                end = self._search.first(buffer, searched, filled)
                searched = filled
            elif count := self._reader.readinto(buffer[filled : filled + STEP]):
                filled += count
            else:
                end = filled
                self.at_end = True
        self._rest = bytes(buffer[end:filled])
        return buffer[:end]


class _Search:
    """Looks for cut marks. Keeps its working memory, so one per stream. NumPy is loaded when there is one."""

    def __init__(self, chunking: Chunking) -> None:
        import numpy as np

        self._maximum = chunking.maximum
        self._threshold = (2**32 - 1) // chunking.average
        self._sums = np.empty(_BLOCK + _WINDOW, np.uint32)
        self._shifted = np.empty(_BLOCK + _WINDOW, np.uint32)

    def first(self, data: memoryview, start: int, end: int) -> int | None:
        """Return the first cut mark in ``data[start:end]``, if any; offsets count from the previous cut."""
        stop = min(end, self._maximum)
        for block in range(start, stop, _BLOCK):
            marks = self._marks(data, block, min(block + _BLOCK, stop))
            if marks.size:
                return block + int(marks[0])
        return self._maximum if end > self._maximum else None

    def _marks(self, data: memoryview, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Return where, relative to `start`, the checksum is in reach.

        The checksum is the exclusive or of 32 bytes, each shifted by its distance. Doubling the number of bytes that a
        sum covers takes one shift and one exclusive or for all positions at once; five doublings give 32.
        """
        import numpy as np

        size = end - start + _WINDOW - 1
        sums, shifted = self._sums[:size], self._shifted[:size]
        sums[:] = np.frombuffer(data, np.uint8, size, start - (_WINDOW - 1))
        for distance in (1, 2, 4, 8, 16):
            np.left_shift(sums[:-distance], distance, out=shifted[distance:])
            np.bitwise_xor(sums[distance:], shifted[distance:], out=sums[distance:])
        distances = sums[_WINDOW - 1 :].view(np.int32)
        np.subtract(distances, _CENTRE, out=distances)
        np.absolute(distances, out=distances)
        return np.flatnonzero(distances < self._threshold)
