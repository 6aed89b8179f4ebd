# SPDX-License-Identifier: GPL-3.0-or-later
"""Tar streams: what several writers make of the same tree, and what is wrong with streams."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfs_publisher.changes.tar_format import Member, TarReader
from cvmfs_publisher.errors import UnsafeArchive


def read(data: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(io.BytesIO(data), "test.tar")
    found = []
    for member in reader:
        parts = []
        while part := reader.read(5000):
            parts.append(part)
        found.append((member, b"".join(parts)))
    return found


def names(data: bytes) -> list[bytes]:
    return [member.name for member, _ in read(data)]


def header(name: bytes = b"file", kind: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    """Return a header block; `fields` are put at the offset in their names, e.g. ``at_108``."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"14300000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    for key, value in fields.items():
        start = int(key.removeprefix("at_"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    text = b""
    for key, value in records.items():
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        text += b"%d %s=%s\n" % (length, key, value)
    return header(b"pax", kind, len(text)) + padded(text)


END = bytes(1024)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what archives are known to have trouble with."""
    top = tmp_path_factory.mktemp("tree")
    (top / "directory" / ("long" * 40) / ("path" * 20)).mkdir(parents=True)
    (top / "directory" / ("long" * 40) / ("path" * 20) / ("n" * 255)).write_bytes(b"deep")
    (top / "plain").write_bytes(b"content" * 300)
    (top / "empty").touch()
    (top / "setuid").write_bytes(b"x")
    (top / "setuid").chmod(0o4711)
    (top / "to plain").symlink_to("plain")
    (top / "far").symlink_to("target/" * 30)
    os.link(top / "plain", top / "plain again")
    os.mkfifo(top / "fifo")
    with open(os.fsencode(top) + b"/line\nbreak \xff\xe9", "wb") as file:
        file.write(b"name")
    if os.geteuid() == 0:
        os.chown(top / "empty", 3_000_000, 4_000_000)
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, (1_500_000_000 + number) * 10**9 + 987_654_321), follow_symlinks=False)
    return top


def gnu(*options: str) -> Callable[[Path], bytes]:
    return lambda tree: (
        subprocess.run(
            ["tar", "--numeric-owner", *options, "-C", tree, "-cf", "-", "."], check=True, capture_output=True
        ).stdout
    )


def python(form: int) -> Callable[[Path], bytes]:
    def write(tree: Path) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
            archive.add(tree, ".")
        return stream.getvalue()

    return write


WRITERS = {
    "GNU tar, gnu": (gnu("--format=gnu"), False),
    "GNU tar, oldgnu": (gnu("--format=oldgnu"), False),
    "GNU tar, pax": (gnu("--format=pax"), True),
    "GNU tar, pax with sparse files": (gnu("--format=pax", "--sparse"), True),
    "Python, gnu": (python(tarfile.GNU_FORMAT), False),
    "Python, pax": (python(tarfile.PAX_FORMAT), True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_archives_say_what_the_directory_says(tree: Path, writer: str) -> None:
    write, has_nanoseconds = WRITERS[writer]
    found = {os.path.normpath(member.name): (member, content) for member, content in read(write(tree))}
    top = os.fsencode(tree)
    expected = {b"."} | {os.path.relpath(os.fsencode(path), top) for path in tree.rglob("*")}
    assert found.keys() == expected
    linked = 0
    for name, (member, content) in found.items():
        status = os.lstat(os.path.join(top, name))
        nanoseconds = member.mtime * 10**9 + member.mtime_ns
        if not has_nanoseconds:
            assert member.mtime == status.st_mtime_ns // 10**9
        elif "Python" in writer:  # keeps times as floating point numbers
            assert abs(nanoseconds - status.st_mtime_ns) < 1000
        else:
            assert nanoseconds == status.st_mtime_ns
        assert (member.uid, member.gid) == (status.st_uid, status.st_gid)
        if member.is_hard_link:
            linked += 1
            other = os.path.join(top, os.path.normpath(member.link))
            assert os.path.samefile(other, os.path.join(top, name))
            continue
        assert member.mode == status.st_mode
        if stat.S_ISLNK(member.mode):
            assert member.link == os.readlink(os.path.join(top, name))
        elif stat.S_ISREG(member.mode):
            assert member.size == status.st_size == len(content)
            with open(os.path.join(top, name), "rb") as file:
                assert content == file.read()
    assert linked == 1


@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_the_oldest_formats(tmp_path: Path, form: str) -> None:
    nested = tmp_path / "tree" / ("d" * 60) / ("e" * (20 if form == "v7" else 60))
    nested.mkdir(parents=True)
    (nested / "file").write_bytes(b"old")
    found = read(gnu(f"--format={form}")(tmp_path / "tree"))
    assert [stat.S_ISDIR(member.mode) for member, _ in found] == [True, True, True, False]
    assert os.path.normpath(found[-1][0].name) == os.fsencode((nested / "file").relative_to(tmp_path / "tree"))
    assert found[-1][1] == b"old"


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix", "--sparse-version=1.0"]])
@pytest.mark.parametrize("pieces", [0, 1, 3, 4, 5, 30, 200])
def test_sparse_files(tmp_path: Path, options: list[str], pieces: int) -> None:
    """30 and 200 pieces need more than one block for their list, in both formats."""
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "sparse").open("wb") as file:
        for piece in range(pieces):
            file.seek((2 * piece + 1) * 4096)
            file.write(bytes([piece + 1]) * 4096)
        file.truncate((2 * pieces + 1) * 4096)
    (tree / "tail").write_bytes(b"after the sparse file")
    archive = gnu("--sparse", *options)(tree)
    found = {os.path.basename(member.name): (member, content) for member, content in read(archive)}
    member, content = found[b"sparse"]
    assert content == (tree / "sparse").read_bytes()
    assert member.size == len(content)
    assert found[b"tail"][1] == b"after the sparse file"
    assert len(archive) < len(content) + 4096 + 10240


def many_pieces(count: int) -> bytes:
    """Return an archive with a sparse file of as many pieces of one byte, with long offsets."""
    start = 10**12
    text = b"%d\n" % count + b"".join(b"%d\n1\n" % (start + 2 * number) for number in range(count))
    content = padded(text) + b"x" * count
    size = {b"GNU.sparse.realsize": b"%d" % (start + 2 * count)}
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", **size, b"size": b"%d" % len(content)}
    return pax(records) + header(size=len(content)) + padded(content) + END


def test_a_sparse_file_with_a_large_map() -> None:
    reader = TarReader(io.BytesIO(many_pieces(100_000)), "test.tar")
    for member in reader:
        assert member.size == 10**12 + 200_000
        reader._layout = itertools.islice(reader._layout, 1, None)  # the hole at its beginning is a large one
        found = b""
        while part := reader.read(1000):
            found += part
        assert hashlib.sha256(found).digest() == hashlib.sha256(b"x\0" * 100_000).digest()


def test_a_sparse_file_with_a_map_that_is_too_large() -> None:
    with pytest.raises(UnsafeArchive, match="map of more than 16 MiB") as caught:
        names(many_pieces(1_100_000))
    assert "without --sparse" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="GNU tar reads extended attributes as root only here")
def test_extended_attributes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    try:
        os.setxattr(tmp_path / "file", "user.origin", b"binary \0\xff=\n")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    archive = gnu("--format=posix", "--xattrs", "--xattrs-include=*")(tmp_path)
    (attributes,) = [member.xattrs for member, _ in read(archive) if member.name == b"./file"]
    assert attributes[b"user.origin"] == b"binary \0\xff=\n"


def test_extended_attributes_of_libarchive() -> None:
    record = {b"LIBARCHIVE.xattr.user.a%3Db": b"AAH/"}
    ((member, _),) = read(pax(record) + header() + END)
    assert member.xattrs == {b"user.a=b": b"\0\1\xff"}


def test_global_headers_are_defaults() -> None:
    archive = pax({b"mtime": b"12.5", b"uid": b"77"}, b"g") + header(b"one") + pax({b"uid": b"78"}) + header(b"two")
    (one, _), (two, _) = read(archive + END)
    assert (one.uid, one.mtime, one.mtime_ns) == (77, 12, 500_000_000)
    assert (two.uid, two.mtime) == (78, 12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1", (1, 0)),
        (b"1.000000001", (1, 1)),
        (b"1.1234567899", (1, 123_456_789)),
        (b"-1.5", (-2, 500_000_000)),
        (b"-0.25", (-1, 750_000_000)),
        (b"99999999999", (99_999_999_999, 0)),
    ],
)
def test_times(text: bytes, expected: tuple[int, int]) -> None:
    ((member, _),) = read(pax({b"mtime": text}) + header() + END)
    assert (member.mtime, member.mtime_ns) == expected


def test_numbers_in_base_256() -> None:
    large = b"\x80" + (10**9).to_bytes(7)
    negative = b"\xff" * 8 + (-12345).to_bytes(4, signed=True)
    ((member, _),) = read(header(at_108=large, at_136=negative) + END)
    assert member.uid == 10**9
    assert member.mtime == -12345


def test_a_size_in_a_pax_header_counts() -> None:
    archive = pax({b"size": b"5"}) + header(size=0) + padded(b"12345") + header(b"next") + END
    assert [(member.name, content) for member, content in read(archive)] == [(b"file", b"12345"), (b"next", b"")]


def test_links_and_directories_have_no_content_whatever_their_size() -> None:
    archive = b"".join(header(kind, kind, size=700, at_157=b"x") for kind in (b"1", b"2", b"5", b"6")) + END
    assert names(archive) == [b"1", b"2", b"5", b"6"]


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header(b"caf\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert names(bytes(block) + END) == [b"caf\xe9"]


def test_content_that_is_not_read_is_skipped() -> None:
    archive = header(b"one", size=3_000_000) + padded(bytes(3_000_000)) + header(b"two", size=600) + padded(b"2" * 600)
    reader = TarReader(io.BytesIO(archive + END), "test.tar")
    found = []
    for member in reader:
        found.append((member.name, reader.read(10)))
    assert found == [(b"one", bytes(10)), (b"two", b"2" * 10)]


def test_an_empty_archive_and_a_lone_zero_block() -> None:
    assert read(END) == []
    assert read(bytes(512)) == []
    assert read(bytes(10240)) == []


BAD = {
    "no archive": (b"#!/bin/sh\n" * 100, "test.tar is not a tar archive"),
    "an empty file": (b"", "test.tar is cut short before the first member"),
    "a short file": (b"short", "test.tar is cut short before the first member"),
    "no end": (header(b"last"), "cut short in or behind 'last'"),
    "a damaged header": (header(b"good") + b"\1" * 512 + END, "damaged behind 'good'"),
    "a bit that flipped": (header(b"good") + b"\1" + header()[1:] + END, "damaged behind 'good'"),
    "content behind the end": (header() + END + b"x" * 512, "has more content behind its end"),
    "two archives": (header() + END + header() + END, "tar --concatenate"),
    "an extension without a member": (pax({b"uid": b"1"}) + END, "cut short"),
    "a long name without a member": (header(b"x", b"L", 9) + padded(b"long name") + END, "cut short"),
    "another volume": (header(b"part", b"M") + END, "'part' of test.tar is the continuation"),
    "a dump": (header(b"dump", b"D") + END, "'dump' of test.tar is a directory dump"),
    "an unknown type": (header(b"odd", b"?") + END, "'odd' of test.tar is of a type that tar does not define"),
    "a bad number": (
        header(b"odd", at_124=b"12x45678901\0") + END,
        "'odd' of test.tar has a header with a damaged number",
    ),
    "a negative size": (header(b"odd", at_124=b"\xff" * 12) + END, "'odd' of test.tar has a negative size"),
    "a damaged pax header": (header(b"p", b"x", 9) + padded(b"99 a=b\n  ") + header() + END, "damaged pax header"),
    "a pax header of nothing": (header(b"p", b"x", 4) + padded(b"abcd") + header() + END, "damaged pax header"),
    "a bad time": (pax({b"mtime": b"yesterday"}) + header() + END, "damaged time"),
    "a bad owner": (pax({b"uid": b"-1"}) + header() + END, "damaged number"),
    "an endless time": (pax({b"mtime": b"1" * 5000}) + header() + END, "damaged time"),
    "an endless owner": (pax({b"uid": b"1" * 5000}) + header() + END, "damaged number"),
    "a bad attribute": (pax({b"LIBARCHIVE.xattr.user.a": b"!!"}) + header() + END, "damaged extended attribute"),
    "a huge extension": (header(b"p", b"x", 2 << 20) + bytes(2 << 20) + header() + END, "more than 1 MiB"),
    "old sparse files": (pax({b"GNU.sparse.map": b"0,1"}) + header() + END, "--sparse-version=1.0"),
    "a sparse file without a map": (
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"}) + header() + END,
        "sparse file with a damaged map",
    ),
    "a sparse file whose pieces overlap": (
        header(b"s", b"S", 2, at_386=b"%011o\0%011o\0%011o\0%011o\0" % (5, 1, 3, 1), at_483=b"%011o\0" % 9)
        + padded(b"xy")
        + END,
        "'s' of test.tar is a sparse file with a damaged map",
    ),
    "a sparse file that ends before its pieces": (
        header(b"s", b"S", 2, at_386=b"%011o\0%011o\0" % (5, 2), at_483=b"%011o\0" % 6) + padded(b"xy") + END,
        "'s' of test.tar is a sparse file with a damaged map",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives(case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(UnsafeArchive) as caught:
        read(data)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_every_cut_is_noticed(tree: Path) -> None:
    """Unlike tar itself, which takes an archive that is cut between two members for a whole one."""
    archive = gnu("--format=posix", "--blocking-factor=1")(tree)
    assert archive.endswith(END)
    for size in {*range(0, len(archive) - 1024 + 1, 512), *range(1, len(archive) - 1024, 997)}:
        with pytest.raises(UnsafeArchive, match="is cut short"):
            read(archive[:size])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_never_does_more_than_raise(data: st.DataObject) -> None:
    archive = bytearray(
        pax({b"path": b"long/name", b"mtime": b"1.5"})
        + header(size=10)
        + padded(b"0123456789")
        + header(b"s", b"S", 2, at_386=b"%011o\0%011o\0" % (5, 2), at_483=b"%011o\0" % 7)
        + padded(b"xy")
        + header(b"l", b"K", 5)
        + padded(b"there")
        + header(b"link", b"2")
        + END
    )
    for _ in range(data.draw(st.integers(1, 3))):
        block = data.draw(st.integers(0, len(archive) // 512 - 1)) * 512
        position = block + data.draw(st.integers(0, 511))
        archive[position] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # a checksum that fits the damage
            archive[block + 148 : block + 156] = b" " * 8
            archive[block + 148 : block + 156] = b"%06o\0 " % sum(archive[block : block + 512])
    try:
        for member, content in read(bytes(archive)):
            assert len(content) == member.size
    except UnsafeArchive:
        pass
