# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing from tar archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from changes.repository import OWNER, TIMESTAMP, Repository, Seen, delete, make, merge, mirror, on_disk

from cvmfs_publisher.changes.change_set import Owner
from cvmfs_publisher.errors import SourceChanged, SourceError, UnreadableSource, UnsafeArchive, UsageError


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def archive(*members: tuple[str, str, object], **attributes: object) -> bytes:
    """Return an archive of (type, name, content or target) members."""
    kinds = {
        "file": tarfile.REGTYPE,
        "directory": tarfile.DIRTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "character device": tarfile.CHRTYPE,
        "block device": tarfile.BLKTYPE,
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for kind, name, content in members:
            member = tarfile.TarInfo(name)
            member.type = kinds[kind]
            member.mode = 0o755 if kind == "directory" else 0o644
            member.mtime = TIMESTAMP
            for key, value in attributes.items():
                setattr(member, key, value)
            if kind == "file":
                data = content if isinstance(content, bytes) else str(content).encode()
                member.size = len(data)
                writer.addfile(member, io.BytesIO(data))
            else:
                member.linkname = str(content)
                writer.addfile(member)
    return stream.getvalue()


def contents(repository: Repository, base: bytes = b"sw") -> dict[bytes, bytes | None]:
    """Return files with their content, symlinks with ``->target``, and other paths with None."""
    return {
        path: b"->" + seen.target if seen.target else seen.content
        for path, seen in repository.seen(base).items()
        if path
    }


# What is refused

BAD: dict[str, tuple[list[tuple[str, str, object]], str]] = {
    "dots at the start": ([("file", "../evil", "x")], "Member '../evil' of {} has '..' in the name"),
    "dots inside": ([("file", "a/../../evil", "x")], "Member 'a/../../evil' of {} has '..' in the name"),
    "dots at the end": ([("directory", "a/..", "")], "Member 'a/../' of {} has '..' in the name"),
    "an absolute name": ([("file", "/etc/passwd", "x")], "Member '/etc/passwd' of {} has the absolute name"),
    "a hard link with dots": (
        [("file", "f", "x"), ("hardlink", "g", "../f")],
        "Member 'g' of {} has '..' in the name '../f'",
    ),
    "an absolute hard link": (
        [("hardlink", "g", "/etc/passwd")],
        "Member 'g' of {} has the absolute name '/etc/passwd'",
    ),
    "a hard link to nothing": ([("hardlink", "g", "f")], "Member 'g' of {} is a hard link to 'f', which is no file"),
    "a hard link to what comes later": (
        [("hardlink", "g", "f"), ("file", "f", "x")],
        "Member 'g' of {} is a hard link to 'f', which is no file in front of it",
    ),
    "a hard link to a directory": (
        [("directory", "d", ""), ("hardlink", "g", "d")],
        "Member 'g' of {} is a hard link to 'd', which is no file",
    ),
    "a character device": ([("character device", "dev/null", "")], "Member 'dev/null' of {} is a character device"),
    "a block device": ([("block device", "dev/sda", "")], "Member 'dev/sda' of {} is a block device"),
    "a way through a symlink": (
        [("symlink", "link", "/etc"), ("file", "link/passwd", "x")],
        "Member 'link/passwd' of {} lies below 'link', which is a symlink",
    ),
    "a long way through a symlink": (
        [("symlink", "link", ".."), ("directory", "link/a/b", "")],
        "Member 'link/a/b/' of {} lies below 'link', which is a symlink",
    ),
    "a symlink in the place of a directory": (
        [("file", "d/f", "x"), ("symlink", "d", "/etc")],
        "Member 'd' of {} replaces a directory that other members are in",
    ),
    "a member below a file": (
        [("file", "f", "x"), ("file", "f/g", "x")],
        "Member 'f/g' of {} lies below 'f', which is not a directory",
    ),
    "a file that is the root": ([("file", ".", "x")], "Member '.' of {} has the name of the archive's root"),
    "a symlink to nowhere": ([("symlink", "s", "")], "Member 's' of {} is a symlink without a valid target"),
    "a long name": ([("file", "n" * 256, "x")], "of {} has a file name of more than 255 bytes"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["file", "standard input"])
def test_what_must_not_be_published(repository: Repository, tmp_path: Path, case: str, form: str) -> None:
    repository.publish()
    before = repository.root, repository.seen()
    members, message = BAD[case]
    data = archive(("file", "good", "content"), *members)
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    source, label = (path, str(path)) if form == "file" else ("-", "The archive on standard input")
    for attempt in (repository.publish, repository.preview):
        with pytest.raises(UnsafeArchive) as caught:
            attempt(mirror(source), stdin=data)
        assert message.format(label) in str(caught.value)
        assert caught.value.remedy
    assert (repository.root, repository.seen()) == before


def test_owners_that_no_catalog_can_hold(repository: Repository) -> None:
    for attributes in ({"uid": 2**32}, {"gid": 2**40}, {"mtime": 2**70}):
        with pytest.raises(UnsafeArchive, match="no catalog can hold"):
            repository.publish(mirror("-"), stdin=archive(("file", "f", "x"), **attributes))


def test_special_files_can_be_left_out(repository: Repository) -> None:
    data = archive(
        ("file", "f", "x"), ("fifo", "pipe", ""), ("character device", "dev/null", ""), ("block device", "sda", "")
    )
    report = repository.publish(mirror("-"), stdin=data, ignore_special_files=True)
    assert contents(repository) == {b"f": b"x"}
    assert report.warnings == ["The archive on standard input: 3 fifos and device nodes were left out"]


def test_fifos_are_published(repository: Repository) -> None:
    repository.publish(mirror("-"), stdin=archive(("fifo", "pipe", "")))
    assert repository.seen(b"sw")[b"pipe"].mode == 0o010644


@pytest.mark.parametrize("name", ["archive.txt", "archive.tar.gz", "missing.tar"])
def test_what_is_no_archive(repository: Repository, tmp_path: Path, name: str) -> None:
    (tmp_path / "archive.txt").write_bytes(b"hello world\n" * 100)
    (tmp_path / "archive.tar.gz").write_bytes(gzip.compress(b"hello world\n" * 100))
    path = tmp_path / name
    if name == "missing.tar":
        with pytest.raises(UnreadableSource, match=r"Cannot read .*missing\.tar: No such file or directory"):
            repository.publish(mirror(path))
    else:
        with pytest.raises(UnsafeArchive, match=f"{name} is not a tar archive, plain or compressed with gzip"):
            repository.publish(mirror(path))


def test_there_may_be_no_standard_input(repository: Repository) -> None:
    with pytest.raises(UsageError, match="no standard input"):
        repository.publish(mirror("-"), standard_input=None)


# Compression

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "gzip in two parts": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "xz in two parts": lambda data: lzma.compress(data[:1000]) + lzma.compress(data[1000:]),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "zstd in two parts": lambda data: (
        zstandard.ZstdCompressor().compress(data[:1000]) + zstandard.ZstdCompressor().compress(data[1000:])
    ),
    "zstd as pzstd writes it": lambda data: b"\x50\x2a\x4d\x18\4\0\0\0abcd" + zstandard.ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("form", COMPRESS)
def test_compressed_archives(repository: Repository, tmp_path: Path, form: str) -> None:
    content = {f"directory/file {number}": os.urandom(2000) for number in range(20)}
    data = COMPRESS[form](archive(*(("file", name, text) for name, text in content.items())))
    expected = {name.encode(): text for name, text in content.items()} | {b"directory": None}
    path = tmp_path / "compressed"
    path.write_bytes(data)
    repository.publish(mirror(path, "file"), mirror("-", "stdin"), stdin=data)
    assert contents(repository, b"file") == contents(repository, b"stdin") == expected


@pytest.mark.parametrize("form", COMPRESS)
def test_compressed_archives_that_are_cut(repository: Repository, form: str) -> None:
    content = [("file", f"file {number}", os.urandom(3000)) for number in range(5)]
    data = COMPRESS[form](archive(*content))
    ends = [1, 20, len(data) // 2, len(data) * 3 // 4]
    if form != "none":  # what is cut off there are zeros behind the end mark
        ends += [len(data) - 1]
    for end in ends:
        with pytest.raises(UnsafeArchive, match=r"is cut short|is not a tar archive"):
            repository.publish(mirror("-"), stdin=data[:end])
    assert repository.root is None


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_archives_that_are_damaged(repository: Repository, form: str) -> None:
    data = bytearray(COMPRESS[form](archive(("file", "f", os.urandom(50_000)))))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(UnsafeArchive, match="damaged"):
        repository.publish(mirror("-"), stdin=bytes(data))


# What is published


def test_members_in_any_order_without_directories(repository: Repository) -> None:
    data = archive(
        ("file", "a/b/c/deep", "1"), ("file", "./a/b/other", "2"), ("directory", "a/b/", ""), ("file", "a//x/./y", "3")
    )
    repository.publish(mirror("-"), stdin=data)
    assert contents(repository) == {
        b"a": None,
        b"a/b": None,
        b"a/b/c": None,
        b"a/b/c/deep": b"1",
        b"a/b/other": b"2",
        b"a/x": None,
        b"a/x/y": b"3",
    }
    made_up = Seen(0o040755, OWNER.uid, OWNER.gid, TIMESTAMP * 10**9)
    assert repository.seen(b"sw")[b"a"] == repository.seen(b"sw")[b"a/x"] == made_up
    assert not repository.publish(mirror("-"), stdin=data, timestamp=TIMESTAMP + 5).changed


def test_the_last_of_several_members_counts(repository: Repository) -> None:
    data = archive(
        ("file", "f", "old"),
        ("hardlink", "link", "f"),
        ("directory", "becomes file", ""),
        ("symlink", "becomes directory", "/etc"),
        ("file", "f", "new"),
        ("file", "becomes file", "x"),
        ("directory", "becomes directory", ""),
        ("file", "becomes directory/inside", "y"),
        ("file", "./f", "newest"),
    )
    repository.publish(mirror("-"), stdin=data)
    assert contents(repository) == {
        b"f": b"newest",
        b"link": b"old",
        b"becomes file": b"x",
        b"becomes directory": None,
        b"becomes directory/inside": b"y",
    }


def test_hard_links(repository: Repository) -> None:
    data = archive(
        ("file", "d/one", "content"),
        ("hardlink", "d/two", "d/one"),
        ("hardlink", "d/three", "./d/two"),
        ("hardlink", "elsewhere", "d/one"),
        ("symlink", "s", "t"),
        ("hardlink", "s too", "s"),
        ("hardlink", "s", "s"),
    )
    report = repository.publish(mirror("-"), stdin=data)
    seen = repository.seen(b"sw")
    assert {path: set(its.names) for path, its in seen.items() if its.names} == {
        b"d/one": {b"one", b"two", b"three"},
        b"d/two": {b"one", b"two", b"three"},
        b"d/three": {b"one", b"two", b"three"},
        b"s": {b"s", b"s too"},
        b"s too": {b"s", b"s too"},
    }
    assert seen[b"elsewhere"].content == seen[b"d/three"].content == b"content"
    assert seen[b"s too"].target == b"t"
    assert report.warnings == [
        "The archive on standard input: 1 hard links to files in other directories are published as separate files"
    ]
    assert not repository.publish(mirror("-"), stdin=data).changed


def test_owners(repository: Repository) -> None:
    data = archive(("directory", "d", ""), ("file", "d/f", "x"), ("file", "e/g", "y"), uid=10, gid=20)

    def owners(base: bytes) -> set[tuple[int, int]]:
        return {(seen.uid, seen.gid) for seen in repository.seen(base).values()}

    repository.publish(merge("-", "by-default"), stdin=data)
    assert owners(b"by-default") == {(OWNER.uid, OWNER.gid)}
    repository.publish(merge("-", "given", owner=Owner(7, 8)), stdin=data)
    assert owners(b"given") == {(7, 8)}
    repository.publish(merge("-", "kept", keep_ownership=True), stdin=data)
    kept = {path: seen.uid for path, seen in repository.seen(b"kept").items()}
    assert kept == {b"": OWNER.uid, b"d": 10, b"d/f": 10, b"e": OWNER.uid, b"e/g": 10}


def test_the_root_of_an_archive(repository: Repository) -> None:
    """An archive of '.' describes the base directory; others leave it alone."""
    repository.publish(merge("-"), stdin=archive(("directory", ".", ""), mode=0o700, mtime=5))
    assert repository.seen(b"sw")[b""] == Seen(0o040700, OWNER.uid, OWNER.gid, 5 * 10**9)
    repository.publish(mirror("-"), stdin=archive(("file", "f", "x")))
    assert repository.seen(b"sw")[b""].mode == 0o040700


def test_extended_attributes(repository: Repository) -> None:
    data = archive(
        ("file", "f", "x"),
        pax_headers={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.long": "v" * 256, "SCHILY.xattr.user.b": "v" * 255},
    )
    repository.publish(mirror("-", "without"), stdin=data)
    report = repository.publish(mirror("-", "with"), stdin=data, include_xattrs=True)
    assert any("1 extended attributes were left out; a catalog holds 255" in warning for warning in report.warnings)
    rows = repository.judgement().rows
    assert rows[b"/without/f"].xattr is None
    assert rows[b"/with/f"].xattr == b"\x01\x02\x06\x01user.a1\x06\xffuser.b" + b"v" * 255


def test_unchanged_files_are_not_stored_again(repository: Repository, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {f"d{number % 3}/f{number}": str(number) * 100 for number in range(30)})
    subprocess.run(["tar", "-C", source, "--format=posix", "-cf", tmp_path / "a.tar", "."], check=True)
    first = repository.publish(mirror(tmp_path / "a.tar"))
    assert (first.files, first.bytes, first.new_objects) == (30, 5000, 30)
    (source / "d1" / "f4").write_text("new")
    (source / "d2" / "f5").chmod(0o600)
    subprocess.run(["tar", "-C", source, "--format=posix", "-cf", tmp_path / "a.tar", "."], check=True)
    second = repository.publish(mirror(tmp_path / "a.tar"))
    assert (second.files, second.bytes) == (2, 3 + 100)
    assert second.modified.paths == [b"sw/d1/f4", b"sw/d2/f5"]
    third = repository.publish(mirror(tmp_path / "a.tar"), checksum=True)
    assert third.files == 30
    assert not third.changed


def test_an_archive_that_changes(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive(("file", "f", "x")))
    repository.store.meddle = lambda: os.utime(path, (1, 1))
    with pytest.raises(SourceChanged, match=r"a\.tar changed while it was being read"):
        repository.publish(mirror(path))


def test_large_members_and_their_neighbours(repository: Repository) -> None:
    large = os.urandom(5 << 20) + bytes(4 << 20)
    data = archive(("file", "before", "b"), ("file", "large", large), ("file", "after", "a"), ("file", "again", large))
    report = repository.publish(mirror("-"), stdin=data)
    assert contents(repository) == {b"before": b"b", b"large": large, b"after": b"a", b"again": large}
    assert report.bytes == 2 * len(large) + 2
    assert not repository.publish(mirror("-"), stdin=data).changed


def test_an_archive_cut_in_a_large_member(repository: Repository) -> None:
    data = archive(("file", "large", os.urandom(6 << 20)))
    with pytest.raises(UnsafeArchive, match="cut short in or behind 'large'"):
        repository.publish(mirror("-"), stdin=data[: 5 << 20])


def test_a_sparse_file_with_a_name_of_bytes(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    name = os.fsencode(source) + b"/sp\xff\nrse"
    with open(name, "wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(b"island")
    os.utime(name, ns=(1, 1_234_567_890_123_456_789))
    for form in ("gnu", "posix"):
        subprocess.run(
            ["tar", "-C", source, "--sparse", f"--format={form}", "-cf", tmp_path / "s.tar", "."], check=True
        )
        repository.publish(mirror(tmp_path / "s.tar", form, keep_ownership=True))
    expected = on_disk(source)
    assert repository.seen(b"posix") == expected
    whole_seconds = {path: replace(seen, mtime_ns=seen.mtime_ns // 10**9 * 10**9) for path, seen in expected.items()}
    assert repository.seen(b"gnu") == whole_seconds


# Mirror and merge


def test_a_mirror_removes_and_a_merge_does_not(repository: Repository) -> None:
    repository.publish(
        mirror("-"), stdin=archive(("file", "d/old", "1"), ("file", "d/both", "2"), ("file", "gone", "3"))
    )
    new = archive(("file", "d/both", "2"), ("file", "new", "4"))
    merged = repository.publish(merge("-"), stdin=new)
    assert contents(repository).keys() == {b"d", b"d/old", b"d/both", b"gone", b"new"}
    assert (merged.added.paths, merged.modified.paths, merged.removed.paths) == ([b"sw/new"], [], [])
    mirrored = repository.publish(mirror("-"), stdin=new)
    assert contents(repository).keys() == {b"d", b"d/both", b"new"}
    assert mirrored.removed.paths == [b"sw/d/old", b"sw/gone"]


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_members_below_what_is_no_directory(repository: Repository, kind: str) -> None:
    repository.publish(mirror("-"), stdin=archive((kind, "a", "x")))
    with pytest.raises(UsageError, match="/sw/a is not a directory in the repository"):
        repository.publish(merge("-"), stdin=archive(("file", "a/b", "x")))
    with pytest.raises(UsageError, match="/sw/a is not a directory in the repository"):
        repository.publish(merge("-", "sw/a"), stdin=archive(("file", "b", "x")))
    repository.publish(delete("sw/a"), merge("-", "sw/a"), stdin=archive(("file", "b", "x")))
    assert contents(repository) == {b"a": None, b"a/b": b"x"}
    repository.publish(mirror("-"), stdin=archive((kind, "a", "x")))
    repository.publish(mirror("-"), stdin=archive(("file", "a/b", "x")))
    assert contents(repository) == {b"a": None, b"a/b": b"x"}


def test_an_empty_archive(repository: Repository) -> None:
    empty = archive()
    assert repository.publish(mirror("-"), stdin=empty).added.paths == [b"sw"]
    repository.publish(mirror("-"), stdin=archive(("file", "f", "x")))
    assert not repository.publish(merge("-"), stdin=empty).changed
    with pytest.raises(SourceError, match="The archive on standard input is empty; mirroring it would empty /sw"):
        repository.publish(mirror("-"), stdin=empty)
    assert repository.publish(mirror("-", allow_empty=True), stdin=empty).removed.paths == [b"sw/f"]


def test_the_dirtab_of_an_archive(repository: Repository) -> None:
    data = archive(("file", "a/b/c", "x"), ("file", ".cvmfsdirtab", "/a/*\n"))
    for _ in range(2):  # the second time, the file need not be stored
        predicted = repository.preview(mirror("-", ""), stdin=data)
        report = repository.publish(mirror("-", ""), stdin=data)
        assert predicted.added.paths == report.added.paths
        assert repository.judgement().catalogs.keys() == {b"", b"/a/b"}
    assert not report.changed
    repository.publish(mirror("-", "elsewhere"), stdin=archive(("file", ".cvmfsdirtab", "no rule")))
    huge = archive(("file", ".cvmfsdirtab", bytes(5 << 20)))
    with pytest.raises(UnsafeArchive, match=r"'\.cvmfsdirtab' of .* is too large"):
        repository.publish(mirror("-", ""), stdin=huge)


# Memory

_MEASURE = """
import io, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from changes.repository import Repository, mirror

class Stream(io.RawIOBase):
    # An archive of one file of 400 MB, with headers of other files around it
    def __init__(self, header, size):
        self.parts = [header, size, bytes(1024)]
    def readable(self):
        return True
    def readinto(self, buffer):
        while self.parts:
            part = self.parts[0]
            if part:
                count = min(len(buffer), part if isinstance(part, int) else len(part))
                buffer[:count] = bytes(count) if isinstance(part, int) else part[:count]
                self.parts[0] = part - count if isinstance(part, int) else part[count:]
                return count
            self.parts.pop(0)
        return 0

from changes.test_tar_format import header
from cvmfs_publisher.content import ContentPipeline
repository = Repository(Path({base!r}))
repository.publish(mirror("-", "warm"), standard_input=Stream(header(size=8 << 20), 8 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = repository.publish(mirror("-"), standard_input=Stream(header(size=400 << 20), 400 << 20))
assert report.bytes == 400 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_member_takes_little_memory(tmp_path: Path) -> None:
    script = textwrap.dedent(_MEASURE).format(tests=str(Path(__file__).parents[1]), base=str(tmp_path / "repository"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150_000, "kilobytes for a member of 400 MB"
