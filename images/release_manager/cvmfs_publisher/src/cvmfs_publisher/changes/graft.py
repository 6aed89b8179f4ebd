# SPDX-License-Identifier: GPL-3.0-or-later
"""Grafted files: published by what a file next to them says about their content, which somebody else stores.

The format is described in the CernVM-FS documentation, "Grafting Files"; ``compression`` is what ``cvmfs_swissknife
graft`` writes besides.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Self

from ..content import Chunk, Compression, ContentHash, HashSuffix
from ..errors import ConfigurationError, CorruptObject, SourceError
from ..paths import display
from .entry import FileContent

GRAFT_PREFIX = b".cvmfsgraft-"
"""The name of what describes a file is this and the file's name."""

MAX_GRAFT = 16 << 20
"""Bytes of a description; it would name chunks of more than ten terabytes then."""

_KEYS = ("size", "checksum", "chunk_offsets", "chunk_checksums", "compression")
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Graft:
    """What a description says.

    :param size: bytes of the file
    :param hash: its object; None when it is in chunks only
    :param chunks: its pieces, in order and without gaps; empty when it is not cut
    :param compression: how its objects are stored; None when it does not say
    """

    size: int
    hash: ContentHash | None
    chunks: tuple[Chunk, ...]
    compression: Compression | None

    @classmethod
    def parse(cls, data: bytes, path: bytes) -> Self:
        """Read a description.

        :param path: its own, for messages
        :raises SourceError: when it does not describe a file
        """
        values: dict[str, str] = {}
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            key, equals, value = (part.strip() for part in text.partition("="))
            if not equals or key not in _KEYS:
                raise _wrong(path, f"line {number} does not set any of {', '.join(_KEYS)}")
            if key in values:
                raise _wrong(path, f"line {number} sets {key} again")
            values[key] = value
        for key in ("size", "checksum"):
            if key not in values:
                raise _wrong(path, f"it does not set {key}")
        size = _number(values["size"], path)
        content_hash = _hash(values["checksum"], path)
        offsets = [_number(text, path) for text in _list(values.get("chunk_offsets", ""))]
        hashes = [_hash(text, path) for text in _list(values.get("chunk_checksums", ""))]
        if len(offsets) != len(hashes):
            raise _wrong(path, f"it has {len(offsets)} chunk_offsets and {len(hashes)} chunk_checksums")
        if {piece.algorithm for piece in hashes} - {content_hash.algorithm}:
            raise _wrong(path, "its checksums are of different algorithms")
        chunks = tuple(
            Chunk(offset, end - offset, piece.with_suffix(HashSuffix.PARTIAL))
            for (offset, end), piece in zip(itertools.pairwise([*offsets, size]), hashes, strict=True)
        )
        if chunks and (chunks[0].offset != 0 or any(chunk.size <= 0 for chunk in chunks)):
            raise _wrong(path, f"its chunk_offsets do not rise from 0 to less than {size}, the size")
        has_object = any(content_hash.digest)
        if not has_object and not chunks:
            raise _wrong(path, "it names neither an object nor chunks")
        return cls(
            size,
            content_hash.with_suffix(HashSuffix.NONE) if has_object else None,
            chunks,
            _compression(values["compression"], path) if "compression" in values else None,
        )

    def content(self, compression: Compression, *, external: bool, direct_io: bool) -> FileContent:
        """Return the content of the file.

        :param compression: where the description does not say
        """
        return FileContent(self.hash, self.chunks, self.compression or compression, external, direct_io)


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _number(text: str, path: bytes) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= 2**63:
        raise _wrong(path, f"{text!r} is no number of bytes")
    return int(text)


def _hash(text: str, path: bytes) -> ContentHash:
    try:
        return ContentHash.parse(text)
    except CorruptObject as error:
        raise _wrong(path, error.message) from None


def _compression(text: str, path: bytes) -> Compression:
    try:
        return Compression.from_setting(text)
    except ConfigurationError:
        raise _wrong(path, f"{text!r} is not a compression algorithm") from None


def _wrong(path: bytes, what: str) -> SourceError:
    return SourceError(
        f"{display(path)} does not describe a grafted file: {what}",
        remedy="Write it as 'cvmfs_swissknife graft' does, or remove it",
    )
