# SPDX-License-Identifier: GPL-3.0-or-later
"""Compression of objects: zlib streams (RFC 1950), or none."""

from __future__ import annotations

import zlib
from enum import Enum
from typing import TYPE_CHECKING

import deflate

from ..errors import ConfigurationError, CorruptObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..storage import Bytes

LEVEL = 6


class Compression(Enum):
    """How an object is stored; the value is the algorithm's number in catalogs."""

    ZLIB = 0
    NONE = 1

    @property
    def setting(self) -> str:
        """The name in ``CVMFS_COMPRESSION_ALGORITHM``."""
        return "default" if self is Compression.ZLIB else "none"

    @classmethod
    def from_setting(cls, text: str) -> Compression:
        """Return what ``CVMFS_COMPRESSION_ALGORITHM`` names.

        :raises ConfigurationError: for an unknown name
        """
        match text.lower():
            case "default" | "zlib":
                return cls.ZLIB
            case "none":
                return cls.NONE
        raise ConfigurationError(
            f"CVMFS_COMPRESSION_ALGORITHM={text} is not a compression algorithm", remedy="Use default or none"
        )

    def compress(self, data: Bytes) -> Bytes:
        """Return the stored form of `data`. The interpreter lock is released meanwhile."""
        return deflate.zlib_compress(data, LEVEL) if self is Compression.ZLIB else data

    def decompress(self, stored: Bytes) -> bytes:
        """Return the data whose stored form is `stored`.

        :raises CorruptObject: when it is not one complete zlib stream
        """
        if self is Compression.NONE:
            return bytes(stored)
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(stored)
        except zlib.error as error:
            raise CorruptObject(f"Compressed data is damaged ({error})") from None
        if not stream.eof or stream.unused_data:
            raise CorruptObject("Compressed data is cut short, or has something behind its end")
        return data

    def decompress_parts(self, parts: Iterable[bytes], part_size: int) -> Iterator[bytes]:
        """Yield the data whose stored form are `parts`, in pieces of at most about `part_size` bytes.

        :raises CorruptObject: when it is not one complete zlib stream; pieces of it may have been yielded before
        """
        if self is Compression.NONE:
            yield from parts
            return
        stream = zlib.decompressobj()
        try:
            for part in parts:
                pending = part
                while pending:
                    yield stream.decompress(pending, part_size)
                    pending = stream.unconsumed_tail
                if stream.unused_data:
                    break
            yield stream.flush()
        except zlib.error as error:
            raise CorruptObject(f"Compressed data is damaged ({error})") from None
        if not stream.eof or stream.unused_data:
            raise CorruptObject("Compressed data is cut short, or has something behind its end")
