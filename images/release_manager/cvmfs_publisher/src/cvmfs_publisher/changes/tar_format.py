# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tar streams: the formats ustar, GNU and pax, and what came before them.

Sources of the format: POSIX.1-2017, "pax - portable archive interchange", "EXTENDED DESCRIPTION"; the GNU tar manual,
"Tar Internals" and "Storing Sparse Files"; libarchive's tar(5). The standard library's reader is not used because it
takes an archive that is cut or damaged between two members for one that ends there.
"""

from __future__ import annotations

import base64
import binascii
import stat
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import UnsafeArchive
from ..paths import display

TRANSFER = "Fetch or make the archive again"
REPACK = "Unpack the archive and publish the directory, or pack it again with 'tar --format=posix'"

_REPACK_WHOLE = "Unpack the archive and publish the directory, or pack it again without --sparse"

_BLOCK = 512
_ZERO_BLOCK = bytes(_BLOCK)
_STEP = 1 << 20
"""Bytes that are skipped at a time, and the limit of an extension header."""
_MAX_MAP = 16 << 20
"""Bytes of a sparse file's map: about a million pieces."""
_MAX_DIGITS = 32
"""Of a decimal number: more than 64 bits have, and fewer than Python refuses to convert."""

_FILE_TYPES = {
    b"\0": stat.S_IFREG,
    b"0": stat.S_IFREG,
    b"1": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
}
_UNSUPPORTED = {
    b"D": "a directory dump of an incremental backup",
    b"M": "the continuation of a file from another volume",
    b"N": "a list of long names in the form of 1990",
}

_Records = dict[bytes, bytes]
_Extents = list[tuple[int, int]]


@dataclass(slots=True)
class Member:
    """One entry of an archive.

    :param name: as the archive writes it
    :param mode: type and permission bits, as in ``st_mode``; a hard link counts as a regular file here
    :param size: bytes of content, including the holes of a sparse file
    :param mtime: seconds since the epoch, and `mtime_ns` the nanoseconds of that second
    :param link: target of a symlink or a hard link, as the archive writes it
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int
    link: bytes
    is_hard_link: bool
    xattrs: Mapping[bytes, bytes]


class TarReader:
    """The members of a tar stream, in its order; the stream is read once, forward, and to its end.

    Iterate over it; before the next step, `read` returns the content of a regular file. What is not read is skipped.

    :param stream: uncompressed; its `read` returns less than asked for only at the end; it raises EOFError where the
        compressed form ends too early
    :param label: names the archive in messages
    :raises UnsafeArchive: (while iterating or reading) when the stream is no tar archive, damaged, or too short
    """

    def __init__(self, stream: BinaryIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self._member = b""
        self._position = 0
        self._left = 0
        """Bytes of the current member that are still in the stream, without the padding behind them."""
        self._padding = 0
        self._layout: Iterator[tuple[bool, int]] = iter(())
        """The pieces of the member's content that follow the current one: whether it is a hole, and its size."""
        self._piece = (False, 0)

    def __iter__(self) -> Iterator[Member]:
        defaults: _Records = {}
        records: _Records = {}
        while (header := self._next_header(inside=bool(records))) is not None:
            self._begin(header)
            match header[156:157]:
                case b"x" | b"X":
                    records |= self._records()
                case b"g":
                    defaults |= self._records()
                case b"L":
                    records[b"path"] = self._extension().rstrip(b"\0")
                case b"K":
                    records[b"linkpath"] = self._extension().rstrip(b"\0")
                case b"V":
                    pass  # the volume's label
                case kind:
                    yield self._to_member(kind, header, defaults | records)
                    records = {}
            self._skip(self._left + self._padding)
        self._drain()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the current member's content; nothing at its end. Holes read as zeros."""
        hole, left = self._piece
        while not left:
            piece = next(self._layout, None)
            if piece is None:
                return b""
            hole, left = piece
        size = min(size, left)
        self._piece = (hole, left - size)
        return bytes(size) if hole else self._take(size)

    def _to_member(self, kind: bytes, header: bytes, records: _Records) -> Member:
        self._member = name = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(header)
        file_type = _FILE_TYPES.get(kind)
        if file_type is None:
            what = _UNSUPPORTED.get(kind, f"of a type that tar does not define, {kind!r}")
            raise self.error(f"is {what}", remedy=REPACK)
        if kind in (b"\0", b"0") and name.endswith(b"/"):
            file_type = stat.S_IFDIR  # how archives older than POSIX write it
        mtime, mtime_ns = self._number(header, 136, 12), 0
        if b"mtime" in records:
            mtime, mtime_ns = self._time(records[b"mtime"])
        size = 0
        if file_type != stat.S_IFREG or kind == b"1":
            self._left = self._padding = 0  # some writers put a size here, none puts content
        else:
            if b"size" in records:
                self._expect(self._decimal(records[b"size"]))
            size = self._lay_out(kind, header, records)
        return Member(
            name=name,
            mode=file_type | self._number(header, 100, 8) & 0o7777,
            uid=self._decimal(records[b"uid"]) if b"uid" in records else self._number(header, 108, 8),
            gid=self._decimal(records[b"gid"]) if b"gid" in records else self._number(header, 116, 8),
            size=size,
            mtime=mtime,
            mtime_ns=mtime_ns,
            link=records.get(b"linkpath") or _text(header, 157, 100),
            is_hard_link=kind == b"1",
            xattrs=self._xattrs(records),
        )

    # Content

    def _begin(self, header: bytes) -> None:
        self._member = _name(header)
        self._layout = iter(())
        self._piece = (False, 0)
        self._expect(self._number(header, 124, 12))

    def _expect(self, size: int) -> None:
        if size < 0:
            raise self.error("has a negative size", remedy=TRANSFER)
        self._left = size
        self._padding = -size % _BLOCK

    def _lay_out(self, kind: bytes, header: bytes, records: _Records) -> int:
        """Prepare reading the content of a regular file; return its size."""
        sparse = sorted(key for key in records if key.startswith(b"GNU.sparse."))
        if kind == b"S":
            size = self._number(header, 483, 12)
            extents = self._gnu_extents(header)
        elif (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            size = self._decimal(records.get(b"GNU.sparse.realsize", b""))
            extents = self._pax_extents()
        elif sparse:
            raise self.error("is a sparse file in an old pax form", remedy="Pack it with 'tar --sparse-version=1.0'")
        else:
            self._piece = (False, self._left)
            return self._left
        position = 0
        for offset, length in extents:
            if offset < position or length < 0:
                break
            position = offset + length
        else:
            if position <= size and sum(length for _, length in extents) == self._left:
                self._layout = _pieces(extents, size)
                return size
        raise self.error("is a sparse file with a damaged map", remedy=TRANSFER)

    def _gnu_extents(self, header: bytes) -> _Extents:
        block, start, count, more = header, 386, 4, header[482]
        extents = []
        while True:
            for field in range(start, start + 24 * count, 24):
                if block[field] == 0:
                    break
                extents.append((self._number(block, field, 12), self._number(block, field + 12, 12)))
            if not more:
                return extents
            block, start, count = self._exactly(_BLOCK), 0, 21
            more = block[504]

    def _pax_extents(self) -> _Extents:
        """Read the map in front of the content: how many pieces there are, then offset and size of each."""
        numbers = self._map_numbers()
        return [(next(numbers), next(numbers)) for _ in range(next(numbers))]

    def _map_numbers(self) -> Iterator[int]:
        """Yield decimal numbers, which are one a line, in whole blocks; those behind the last are not looked at."""
        rest = b""
        for _ in range(_MAX_MAP // _BLOCK):
            if self._left < _BLOCK:
                raise self.error("is a sparse file with a damaged map", remedy=TRANSFER)
            *lines, rest = (rest + self._take(_BLOCK)).split(b"\n")
            yield from map(self._decimal, lines)
        raise self.error(f"is a sparse file with a map of more than {_MAX_MAP >> 20} MiB", remedy=_REPACK_WHOLE)

    def _take(self, size: int) -> bytes:
        """Return the next `size` stored bytes of the current member."""
        self._left -= size
        return self._exactly(size)

    # Extension headers

    def _extension(self) -> bytes:
        if self._left > _STEP:
            raise self.error("has an extension header of more than 1 MiB", remedy=REPACK)
        return self._take(self._left)

    def _records(self) -> _Records:
        """Return the records ``length key=value`` of a pax header. An empty value is one that is not given."""
        text = self._extension()
        records = {}
        position = 0
        while position < len(text):
            digits, space, _ = text[position : position + 20].partition(b" ")
            end = position + int(digits) if space and digits.isdigit() else 0
            key, equals, value = text[position + len(digits) + 1 : end - 1].partition(b"=")
            if not equals or end > len(text) or text[end - 1 : end] != b"\n":
                raise self.error("has a damaged pax header", remedy=TRANSFER)
            records[key] = value
            position = end
        return records

    def _xattrs(self, records: _Records) -> _Records:
        xattrs = {}
        for key, value in records.items():
            if key.startswith(b"SCHILY.xattr."):
                xattrs[key.removeprefix(b"SCHILY.xattr.")] = value
            elif key.startswith(b"LIBARCHIVE.xattr."):
                name = urllib.parse.unquote_to_bytes(key.removeprefix(b"LIBARCHIVE.xattr."))
                try:
                    xattrs[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
                except binascii.Error:
                    raise self.error("has a damaged extended attribute", remedy=TRANSFER) from None
        return xattrs

    # Numbers

    def _number(self, block: bytes, start: int, length: int) -> int:
        """Return a number from a header: octal digits, or base 256 where the first byte says so."""
        field = block[start : start + length]
        if field[0] & 0x80:
            # The first byte is 0x80, or 0xff in front of a negative number.
            return int.from_bytes(
                bytes([field[0] & 0x7F if field[0] != 0xFF else 0xFF]) + field[1:], signed=field[0] == 0xFF
            )
        digits = field.partition(b"\0")[0].strip()
        try:
            return int(digits or b"0", 8)
        except ValueError:
            raise self.error("has a header with a damaged number", remedy=TRANSFER) from None

    def _decimal(self, digits: bytes) -> int:
        if not digits.isdigit() or len(digits) > _MAX_DIGITS:
            raise self.error("has a pax header with a damaged number", remedy=TRANSFER)
        return int(digits)

    def _time(self, text: bytes) -> tuple[int, int]:
        whole, _, fraction = text.partition(b".")
        if not whole.removeprefix(b"-").isdigit() or len(whole) > _MAX_DIGITS or (fraction and not fraction.isdigit()):
            raise self.error("has a pax header with a damaged time", remedy=TRANSFER)
        nanoseconds = int(fraction[:9].ljust(9, b"0"))
        if whole.startswith(b"-"):
            nanoseconds = -nanoseconds
        seconds, nanoseconds = divmod(int(whole) * 10**9 + nanoseconds, 10**9)
        return seconds, nanoseconds

    # Stream

    def _next_header(self, *, inside: bool) -> bytes | None:
        """Return the next header, or None at the archive's end.

        :param inside: an extension header came before, and the member that it belongs to is still missing
        """
        first = not self._position
        block = self._some(_BLOCK)
        if len(block) < _BLOCK or (inside and block == _ZERO_BLOCK):
            raise self._cut()
        if block == _ZERO_BLOCK:
            return None
        if _checksum_fits(block):
            return block
        if first:
            raise UnsafeArchive(
                f"{self._label} is not a tar archive, plain or compressed with gzip, bzip2, xz or zstd",
                remedy="Name a directory or a tar archive",
            )
        raise UnsafeArchive(
            f"{self._label} is damaged behind {display(self._member)!r}: the next header is not one",
            remedy=TRANSFER,
        )

    def _drain(self) -> None:
        """Read what is behind the end mark, which must be zeros: writers fill the last record with them."""
        while block := self._some(_STEP):
            if block.count(0) != len(block):
                raise UnsafeArchive(
                    f"{self._label} has more content behind its end",
                    remedy="If archives were joined, join them with 'tar --concatenate', or publish them one by one",
                )

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, _STEP)))

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        if len(data) < size:
            raise self._cut()
        return data

    def _some(self, size: int) -> bytes:
        """Return `size` bytes, or less at the end of the stream."""
        try:
            data = self._stream.read(size)
        except EOFError:
            raise self._cut() from None
        self._position += len(data)
        return data

    def _cut(self) -> UnsafeArchive:
        where = f"in or behind {display(self._member)!r}" if self._member else "before the first member"
        return UnsafeArchive(f"{self._label} is cut short {where}", remedy=TRANSFER)

    def error(self, problem: str, *, remedy: str) -> UnsafeArchive:
        """Return the error that the current member has `problem`, which is a predicate."""
        return UnsafeArchive(f"Member {display(self._member)!r} of {self._label} {problem}", remedy=remedy)


def _pieces(extents: _Extents, size: int) -> Iterator[tuple[bool, int]]:
    """Yield the pieces of a sparse file's content: whether each is a hole, and its size."""
    position = 0
    for offset, length in extents:
        yield True, offset - position
        yield False, length
        position = offset + length
    yield True, size - position


def _text(block: bytes, start: int, length: int) -> bytes:
    return block[start : start + length].partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    name = _text(header, 0, 100)
    # GNU's own format has other things where POSIX has the prefix.
    prefix = _text(header, 345, 155) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _checksum_fits(header: bytes) -> bool:
    try:
        expected = int(header[148:156].partition(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    others = header[:148] + header[156:]
    if sum(others) + 8 * 0x20 == expected:
        return True
    # Some old writers took bytes for signed.
    return sum(others) + 8 * 0x20 - 256 * sum(byte >> 7 for byte in others) == expected
