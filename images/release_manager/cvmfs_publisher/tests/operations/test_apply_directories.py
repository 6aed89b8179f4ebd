# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing from directories."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from changes.repository import OWNER, TIMESTAMP, Repository, Seen, delete, make, merge, mirror, on_disk, set_times

from cvmfs_publisher.catalog import DirectoryEntry
from cvmfs_publisher.changes.change_set import ChangeSet, Owner
from cvmfs_publisher.changes.directory import DirectorySource
from cvmfs_publisher.changes.entry import Listing
from cvmfs_publisher.content import ContentPipeline
from cvmfs_publisher.errors import SourceChanged, SourceError, UnreadableSource, UsageError
from cvmfs_publisher.operations.apply import ChangeReport, ContentDone, apply_changes

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(
        tmp_path / "source",
        {
            "bin/tool": "#!/bin/sh\n",
            "bin/link": "->tool",
            "lib/large": os.urandom(1 << 20),
            "lib/small": "small",
            "empty": None,
        },
    )


def paths(report: ChangeReport) -> tuple[list[bytes], list[bytes], list[bytes]]:
    return report.added.paths, report.modified.paths, report.removed.paths


# What counts as a change


def _rewrite(path: Path, content: bytes) -> None:
    """Change a file's content, but not its size and times."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _redirect(path: Path, target: str) -> None:
    """Change a symlink's target, but no time."""
    before, directory = path.lstat(), path.parent.stat()
    path.unlink()
    path.symlink_to(target)
    os.utime(path, ns=(0, before.st_mtime_ns), follow_symlinks=False)
    os.utime(path.parent, ns=(0, directory.st_mtime_ns))


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


ALTERATIONS: dict[str, tuple[Callable[[Path], object], list[bytes], int]] = {
    "content": (lambda top: (top / "lib/small").write_text("other"), [b"sw/lib/small"], 1),
    "size": (lambda top: (top / "lib/small").write_text("longer than before"), [b"sw/lib/small"], 1),
    "mode": (lambda top: (top / "bin/tool").chmod(0o755), [b"sw/bin/tool"], 1),
    "time": (lambda top: os.utime(top / "lib/large", (1, 1)), [b"sw/lib/large"], 1),
    "a nanosecond": (
        lambda top: os.utime(top / "lib/small", ns=(0, (top / "lib/small").stat().st_mtime_ns + 1)),
        [b"sw/lib/small"],
        1,
    ),
    "time of a symlink": (lambda top: os.utime(top / "bin/link", (1, 1), follow_symlinks=False), [b"sw/bin/link"], 0),
    "target of a symlink": (lambda top: _redirect(top / "bin/link", "loot"), [b"sw/bin/link"], 0),
    "mode of a directory": (lambda top: (top / "lib").chmod(0o700), [b"sw/lib"], 0),
    "time of a directory": (lambda top: os.utime(top / "empty", (1, 1)), [b"sw/empty"], 0),
    "the root of the source": (lambda top: top.chmod(0o750), [b"sw"], 0),
    "content alone": (lambda top: _rewrite(top / "lib/small", b"SMALL"), [], 0),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_what_counts_as_a_change(repository: Repository, source: Path, alteration: str) -> None:
    repository.publish(mirror(source))
    alter, modified, read = ALTERATIONS[alteration]
    alter(source)
    predicted = repository.preview(mirror(source))
    report = repository.publish(mirror(source))
    assert paths(report) == paths(predicted) == ([], modified, [])
    assert report.files == read
    assert report.changed == predicted.changed == bool(modified)
    if modified:
        assert repository.seen(b"sw") == on_disk(source)
    assert not repository.publish(mirror(source)).changed


@as_root
def test_a_change_of_the_owner(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source))
    os.chown(source / "lib" / "small", 1234, 0)
    os.chown(source / "empty", 0, 1234)
    report = repository.publish(mirror(source))
    assert report.modified.paths == [b"sw/empty", b"sw/lib/small"]
    assert repository.seen(b"sw") == on_disk(source)


def test_attributes_change_without_content(repository: Repository, source: Path) -> None:
    first = repository.publish(mirror(source))
    assert (first.files, first.bytes) == (3, 10 + (1 << 20) + 5)
    assert first.uploaded_bytes > 1 << 20
    objects = repository.objects()
    (source / "lib" / "large").chmod(0o600)
    report = repository.publish(mirror(source))
    assert report.modified.paths == [b"sw/lib/large"]
    assert {key for key in repository.objects() - objects if not key.endswith("C")} == set()


def test_checksum_finds_what_times_do_not_tell(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source))
    report = repository.publish(mirror(source), checksum=True)
    assert report.files == 3
    assert not report.changed
    content = bytearray((source / "lib" / "large").read_bytes())
    content[500_000] ^= 1
    _rewrite(source / "lib" / "large", bytes(content))
    assert not repository.publish(mirror(source)).changed
    assert repository.publish(mirror(source), checksum=True).modified.paths == [b"sw/lib/large"]
    assert repository.seen(b"sw") == on_disk(source)


def test_a_dry_run_with_checksum(repository: Repository, source: Path) -> None:
    """A pipeline that knows all objects compares content, and stores none."""
    repository.publish(mirror(source))
    before = repository.objects()
    _rewrite(source / "lib" / "small", b"SMALL")
    with (
        repository.tree() as tree,
        ContentPipeline[ContentDone](repository.store, chunking=None, known=lambda _: True) as pipeline,
    ):
        options = replace(repository.options, checksum=True)
        report = apply_changes(tree, pipeline, ChangeSet((mirror(source / "lib", "sw/lib"),)), options)
    assert report.modified.paths == [b"sw/lib/large", b"sw/lib/small"]  # the large one because it is not cut now
    assert report.uploaded_bytes == 0
    assert repository.objects() == before


def test_seconds_only(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source), mtime_ns=False)
    row = repository.judgement().rows[b"/sw/lib/small"]
    status = (source / "lib" / "small").stat()
    assert (row.mtime, row.mtime_ns) == (status.st_mtime_ns // 10**9, None)
    os.utime(source / "lib" / "small", ns=(0, status.st_mtime_ns + 1))
    assert not repository.publish(mirror(source), mtime_ns=False).changed
    assert repository.publish(mirror(source), mtime_ns=True).changed
    assert repository.seen(b"sw") == on_disk(source)


def test_files_become_directories_and_back(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source))
    _replace_by_directory(source / "lib" / "large")
    shutil.rmtree(source / "bin")
    (source / "bin").symlink_to("lib")
    set_times(source)
    report = repository.publish(mirror(source))
    assert report.added.paths == [b"sw/lib/large/inside"]
    assert report.removed.paths == [b"sw/bin/link", b"sw/bin/tool"]
    assert {b"sw/bin", b"sw/lib/large"} <= set(report.modified.paths)
    assert repository.seen(b"sw") == on_disk(source)
    shutil.rmtree(source / "lib" / "large")
    (source / "lib" / "large").write_text("a file again")
    repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)


def test_modes_owners_and_special_files(repository: Repository, source: Path) -> None:
    os.mkfifo(source / "pipe")
    os.link(source / "pipe", source / "pipe too")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)
    assert stat.S_ISSOCK(repository.seen(b"sw")[b"socket"].mode)
    report = repository.publish(mirror(source), ignore_special_files=True)
    assert report.removed.paths == [b"sw/pipe", b"sw/pipe too", b"sw/socket"]
    assert report.warnings == [f"{source}: 3 fifos, sockets and device nodes were left out"]


@as_root
@pytest.mark.parametrize("kind", ["character", "block"])
def test_device_nodes(repository: Repository, source: Path, kind: str) -> None:
    try:
        os.mknod(source / "node", 0o600 | (stat.S_IFCHR if kind == "character" else stat.S_IFBLK), os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container may not make device nodes")
    with pytest.raises(SourceError, match=f"{source}/node is a {kind} device. .*CVMFS_IGNORE_SPECIAL_FILES=true"):
        repository.publish(mirror(source))
    repository.publish(mirror(source), ignore_special_files=True)
    assert b"node" not in repository.seen(b"sw")


def test_owners_can_be_given(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, owner=Owner(71, 72)))
    assert {(seen.uid, seen.gid) for seen in repository.seen(b"sw").values()} == {(71, 72)}
    assert not repository.publish(mirror(source, owner=Owner(71, 72))).changed


def test_extended_attributes(repository: Repository, source: Path) -> None:
    try:
        os.setxattr(source / "lib" / "small", "user.origin", b"here")
        os.setxattr(source / "lib", "user.kind", b"directory")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    repository.publish(mirror(source))
    assert repository.judgement().rows[b"/sw/lib/small"].xattr is None
    assert repository.publish(mirror(source), include_xattrs=True).modified.count >= 2
    rows = repository.judgement().rows
    assert b"user.origin\x04here"[:-4] not in (rows[b"/sw/lib/large"].xattr or b"")
    assert b"\x0b\x04user.originhere" in (rows[b"/sw/lib/small"].xattr or b"")
    assert b"\x09\x09user.kinddirectory" in (rows[b"/sw/lib"].xattr or b"")
    assert not repository.publish(mirror(source), include_xattrs=True).changed
    os.removexattr(source / "lib", "user.kind")
    assert repository.publish(mirror(source), include_xattrs=True).modified.paths == [b"sw/lib"]
    os.setxattr(source / "lib", "user.large", b"x" * 256)
    report = repository.publish(mirror(source), include_xattrs=True)
    assert any("1 extended attributes were left out; a catalog holds 255" in warning for warning in report.warnings)


# Hard links


def test_hard_links_in_all_their_changes(repository: Repository, source: Path) -> None:
    os.link(source / "lib" / "small", source / "lib" / "second")
    os.link(source / "lib" / "small", source / "lib" / "third")
    set_times(source)
    first = repository.publish(mirror(source))
    assert first.files == 3  # one for all three names
    assert repository.seen(b"sw") == on_disk(source)
    assert repository.seen(b"sw")[b"lib/third"].names == {b"small", b"second", b"third"}

    (source / "lib" / "small").write_text("written through one name")
    assert repository.publish(mirror(source)).modified.paths == [b"sw/lib/second", b"sw/lib/small", b"sw/lib/third"]
    assert repository.seen(b"sw") == on_disk(source)

    (source / "lib" / "third").unlink()
    repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)

    content, times = (source / "lib" / "second").read_bytes(), (source / "lib" / "second").stat()
    (source / "lib" / "second").unlink()
    (source / "lib" / "second").write_bytes(content)
    os.utime(source / "lib" / "second", ns=(0, times.st_mtime_ns))
    assert b"sw/lib/second" in repository.publish(mirror(source)).modified.paths
    assert repository.seen(b"sw") == on_disk(source)
    assert repository.seen(b"sw")[b"lib/second"].names == frozenset()

    (source / "lib" / "second").unlink()
    os.link(source / "lib" / "small", source / "lib" / "second")
    repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)


def test_a_merge_takes_files_out_of_a_group(repository: Repository, tmp_path: Path) -> None:
    linked = make(tmp_path / "linked", {"a": "x"})
    os.link(linked / "a", linked / "b")
    os.link(linked / "a", linked / "c")
    repository.publish(merge(linked))
    repository.publish(merge(make(tmp_path / "single", {"a": "y"})))
    seen = repository.seen(b"sw")
    assert (seen[b"a"].content, seen[b"a"].names) == (b"y", frozenset())
    assert (seen[b"b"].content, seen[b"b"].names) == (b"x", frozenset([b"b", b"c"]))


def test_links_to_other_directories_become_files(repository: Repository, source: Path) -> None:
    os.link(source / "lib" / "small", source / "bin" / "small")
    os.link(source / "lib" / "small", source / "bin" / "smaller")
    set_times(source)
    report = repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)
    assert repository.seen(b"sw")[b"bin/small"].names == {b"small", b"smaller"}
    assert report.warnings == [
        f"{source}: 3 files have hard links in other directories; they are published as separate files"
    ]
    assert not repository.publish(mirror(source)).changed


# Base directories


def test_parents_are_made(repository: Repository, source: Path) -> None:
    report = repository.publish(mirror(source, "a/b/c"))
    assert report.added.paths[:3] == [b"a", b"a/b", b"a/b/c"]
    made = Seen(0o040755, OWNER.uid, OWNER.gid, TIMESTAMP * 10**9)
    assert repository.seen(b"a")[b""] == repository.seen(b"a/b")[b""] == made
    assert repository.seen(b"a/b/c") == on_disk(source)


def test_the_root_as_base_directory(repository: Repository, source: Path, tmp_path: Path) -> None:
    repository.publish(mirror(source, "old"))
    repository.publish(mirror(source, ""))
    assert repository.seen() == on_disk(source)
    repository.publish(merge(make(tmp_path / "more", {"more": "x"}), ""))
    assert repository.seen().keys() == on_disk(source).keys() | {b"more"}


@pytest.mark.parametrize("base", ["sw/lib/small", "sw/lib/small/below", "sw/bin/link", "sw/bin/link/below"])
@pytest.mark.parametrize("change", [mirror, merge])
def test_a_base_directory_that_is_none(repository: Repository, source: Path, base: str, change: type) -> None:
    repository.publish(mirror(source))
    for attempt in (repository.publish, repository.preview):
        with pytest.raises(UsageError, match=r"/sw/(lib/small|bin/link) is not a directory in the repository"):
            attempt(change(source, base))


def test_a_merge_does_not_empty_directories(repository: Repository, tmp_path: Path) -> None:
    repository.publish(merge(make(tmp_path / "1", {"full/file": "x", "empty": None, "file": "y", "link": "->file"})))
    repository.publish(merge(make(tmp_path / "2", {"empty": "file now", "file/now": "directory", "link/too": "z"})))
    seen = repository.seen(b"sw")
    assert (seen[b"empty"].content, seen[b"file/now"].content, seen[b"link/too"].content) == (
        b"file now",
        b"directory",
        b"z",
    )
    third = merge(make(tmp_path / "3", {"full": "file"}))
    with pytest.raises(SourceError, match=r"/sw/full is a directory with something in it, but a file in .*/3\. Delete"):
        repository.publish(third)
    repository.publish(delete("sw/full"), third)
    assert repository.seen(b"sw")[b"full"].content == b"file"


def test_an_empty_source_is_most_likely_a_mistake(repository: Repository, source: Path, tmp_path: Path) -> None:
    empty = make(tmp_path / "empty", {})
    repository.publish(mirror(empty))
    repository.publish(mirror(source))
    for attempt in (repository.publish, repository.preview):
        with pytest.raises(SourceError, match=f"{empty} is empty; mirroring it would empty /sw"):
            attempt(mirror(empty))
    assert repository.publish(merge(empty)).removed.count == 0
    marked = mirror(empty, "marked", nested_catalog=True)
    assert repository.publish(marked).added.paths == [b"marked", b"marked/.cvmfscatalog"]
    assert not repository.publish(marked).changed
    report = repository.publish(mirror(empty, allow_empty=True))
    assert report.removed.count == 7
    assert repository.seen(b"sw").keys() == {b""}


# Sources


def test_the_source_itself_may_be_a_symlink(repository: Repository, source: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("source")
    repository.publish(mirror(tmp_path / "current"), mirror(f"{tmp_path}/current/", "slash"))
    assert repository.seen(b"sw") == repository.seen(b"slash") == on_disk(source)


def test_symlinks_are_not_followed(repository: Repository, source: Path, tmp_path: Path) -> None:
    (source / "outside").symlink_to(make(tmp_path / "outside", {"secret": "x"}))
    (source / "loop").symlink_to(".")
    repository.publish(mirror(source))
    assert repository.seen(b"sw") == on_disk(source)
    assert not any(b"secret" in path for path in repository.seen())


def test_sources_that_are_not_there(repository: Repository, source: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("missing", "dangling", "missing/below"):
        with pytest.raises(UnreadableSource, match=f"Cannot read {tmp_path}/{name}: No such file or directory"):
            repository.publish(mirror(tmp_path / name))
    with pytest.raises(UnreadableSource, match="Not a directory"):
        repository.publish(mirror(source / "lib" / "small" / "below"))


@pytest.fixture
def for_everybody() -> Iterator[Path]:
    """A directory that belongs to a user without privileges."""
    path = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(path, *_nobody())
    yield path
    shutil.rmtree(path)


def _nobody() -> tuple[int, int]:
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _without_privileges(function: Callable[[], object]) -> None:
    """Call a function in a process that cannot read everything."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_nobody()[1])
                os.setuid(_nobody()[0])
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("lib/small", 0o000, "Cannot read .*/source/lib/small: Permission denied"),
        ("lib", 0o311, "Cannot read .*/source/lib: Permission denied"),
        ("lib", 0o644, "Cannot read .*/source/lib.*: Permission denied"),
        ("", 0o000, "Cannot read .*/source: Permission denied"),
    ],
)
def test_what_cannot_be_read(for_everybody: Path, name: str, mode: int, message: str) -> None:
    def attempt() -> None:
        source = make(for_everybody / "source", {"lib/small": "x", "lib/other": "y", "first": "z"})
        repository = Repository(for_everybody / "repository")
        (source / name).chmod(mode)
        try:
            with pytest.raises(UnreadableSource, match=message) as caught:
                repository.publish(mirror(source))
            assert caught.value.remedy
            assert repository.root is None
        finally:
            (source / name).chmod(0o755)

    _without_privileges(attempt)


MEDDLING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file grows": (lambda top: (top / "z/last").open("ab").write(b"more"), "z/last changed"),
    "a file changes in place": (lambda top: _rewrite(top / "z/last", b"LAST"), "z/last changed"),
    "a file is replaced": (lambda top: shutil.move(_file(top.parent / "new"), top / "z/last"), "z/last changed"),
    "a file goes": (lambda top: (top / "z/last").unlink(), "z/last changed"),
    "a file becomes a symlink": (
        lambda top: os.rename(_symlink(top.parent / "new"), top / "z/last"),
        "z/last",
    ),
    "a file is added": (lambda top: (top / "z/new").touch(), "Directory .*/z changed"),
    "a directory is added": (lambda top: (top / "new").mkdir(), "Directory .*source changed"),
    "a directory's mode changes": (lambda top: (top / "z").chmod(0o700), "Directory .*/z changed"),
    "an empty directory goes": (lambda top: (top / "empty").rmdir(), "Directory .*source(/empty)? changed"),
}


@pytest.mark.parametrize("case", MEDDLING)
def test_sources_that_change(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """While the first file is being stored, when all is listed, something happens to what was not read yet."""
    source = make(tmp_path / "source", {"first": "first", "z/last": "last", "empty": None})
    time.sleep(0.02)  # the clock of file systems ticks every few milliseconds
    meddle, message = MEDDLING[case]
    listings, listed = DirectorySource.listings, threading.Event()

    def noticed(self: DirectorySource) -> Iterator[Listing]:
        yield from listings(self)
        listed.set()

    def change() -> None:
        assert listed.wait(30)
        meddle(source)

    monkeypatch.setattr(DirectorySource, "listings", noticed)
    repository.store.meddle = change
    with pytest.raises(SourceError, match=message) as caught:
        repository.publish(mirror(source))
    assert isinstance(caught.value, SourceChanged | UnreadableSource)
    assert caught.value.remedy
    assert repository.root is None


def test_a_directory_that_changes_while_it_is_listed(tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"a/b/c": "x", "d": "y"})
    listings = DirectorySource(str(source)).listings()
    next(listings)
    (source / "a").rename(source / "e")
    with pytest.raises(SourceChanged, match=r"Directory .*/source/a changed while it was being read"):
        next(listings)
    (source / "a").symlink_to("/etc")
    listings = DirectorySource(str(source)).listings()
    assert next(listings).entries[0].symlink == b"/etc"
    (source / "a").unlink()
    (source / "e").rename(source / "a")
    listings = DirectorySource(str(source)).listings()
    next(listings)
    (source / "a").rename(source / "f")
    (source / "a").symlink_to("f")
    with pytest.raises(SourceChanged, match=r"Directory .*/source/a changed"):
        next(listings)


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_directory_that_changes_before_or_after_it_is_listed_itself(tmp_path: Path, is_listed: bool) -> None:
    source = make(tmp_path / "source", {"a/b": "x"})
    time.sleep(0.02)
    directory = DirectorySource(str(source))
    listings = directory.listings()
    next(listings)
    if is_listed:
        assert [entry.name for entry in next(listings).entries] == [b"b"]
    (source / "a").chmod(0o700)
    with pytest.raises(SourceChanged, match=r"Directory .*/source/a changed"):
        directory.verify() if is_listed else next(listings)


@pytest.mark.parametrize("with_xattrs", [False, True])
def test_nothing_outside_is_read(tmp_path: Path, with_xattrs: bool) -> None:
    """Somebody exchanges a directory for a symlink to a place that only the publisher may read."""
    secret = make(tmp_path / "secret", {"b/c/key": "secret", ".cvmfsdirtab": "secret"})
    source = make(tmp_path / "source", {"a/b/c/key": "public", ".cvmfsdirtab": "/a\n"})
    directory = DirectorySource(str(source), with_xattrs=with_xattrs)
    listings = directory.listings()
    listed = [next(listings), next(listings), next(listings)]
    assert [listing.path for listing in listed] == [b"", b"a", b"a/b"]
    assert directory.dirtab() == b"/a\n"
    (source / "a").rename(tmp_path / "away")
    (source / "a").symlink_to(secret)
    with pytest.raises(SourceChanged, match=r"Directory .*/source/a/b/c changed"):
        next(listings)
    (source / ".cvmfsdirtab").unlink()
    (source / ".cvmfsdirtab").symlink_to(secret / ".cvmfsdirtab")
    with pytest.raises(SourceError, match="Cannot read"):
        directory.dirtab()
    (source / ".cvmfsdirtab").unlink()
    os.link(secret / ".cvmfsdirtab", source / ".cvmfsdirtab")
    with pytest.raises(SourceChanged, match="changed while it was being read"):
        directory.dirtab()


def test_no_attributes_of_anything_outside_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is exchanged for another one just when its files are looked at."""
    secret, source = make(tmp_path / "secret", {"key": "secret"}), make(tmp_path / "source", {"a/key": "public"})
    try:
        os.setxattr(source / "a" / "key", "user.text", b"public")
        os.setxattr(secret / "key", "user.text", b"secret")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    listings = DirectorySource(str(source), with_xattrs=True).listings()
    next(listings)
    names_of = os.listxattr

    def exchange(path: bytes, *, follow_symlinks: bool) -> list[str]:
        (source / "a").rename(tmp_path / "away")
        (source / "a").symlink_to(secret)
        return names_of(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "listxattr", exchange)
    assert [entry.xattrs for entry in next(listings).entries] == [{b"user.text": b"public"}]


def _file(path: Path) -> Path:
    path.write_text("last")
    return path


def _symlink(path: Path) -> Path:
    path.symlink_to("/etc/passwd")
    return path


# Nested catalogs


def test_markers_make_nested_catalogs(repository: Repository, tmp_path: Path) -> None:
    tree: dict[str, str | bytes | None] = {
        "1.0/.cvmfscatalog": "",
        "1.0/lib/file": "x",
        "1.0/share/.cvmfscatalog": "",
        "1.0/share/doc": "y",
    }
    source = make(tmp_path / "source", tree)
    os.link(source / "1.0/lib/file", source / "1.0/lib/again")
    repository.publish(mirror(source))
    assert repository.judgement().catalogs.keys() == {b"", b"/sw/1.0", b"/sw/1.0/share"}
    assert repository.seen(b"sw") == on_disk(source)
    (source / "1.0" / ".cvmfscatalog").unlink()
    (source / "1.0" / "lib" / ".cvmfscatalog").touch()
    assert repository.publish(mirror(source)).changed
    assert repository.judgement().catalogs.keys() == {b"", b"/sw/1.0/lib", b"/sw/1.0/share"}
    assert repository.seen(b"sw") == on_disk(source)
    repository.publish(delete("sw/1.0/share/.cvmfscatalog"))
    assert repository.judgement().catalogs.keys() == {b"", b"/sw/1.0/lib"}
    assert repository.publish(delete("sw/1.0")).removed.count == 7
    assert repository.judgement().catalogs.keys() == {b""}


@pytest.mark.parametrize("change", [mirror, merge])
def test_a_base_directory_as_nested_catalog(repository: Repository, source: Path, change: type) -> None:
    report = repository.publish(change(source, "sw/1.0", nested_catalog=True))
    assert b"sw/1.0/.cvmfscatalog" in report.added.paths
    assert repository.judgement().catalogs.keys() == {b"", b"/sw/1.0"}
    assert repository.seen(b"sw/1.0").keys() == on_disk(source).keys() | {b".cvmfscatalog"}
    assert not repository.publish(change(source, "sw/1.0", nested_catalog=True), timestamp=TIMESTAMP + 9).changed
    (source / ".cvmfscatalog").touch()
    repository.publish(change(source, "sw/1.0", nested_catalog=True))
    assert repository.seen(b"sw/1.0") == on_disk(source)


def test_the_root_is_a_catalog_anyway(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, "", nested_catalog=True))
    assert repository.seen() == on_disk(source)


@pytest.mark.parametrize("name", [".cvmfscatalog", "lib/.cvmfscatalog/file"])
def test_markers_that_cannot_be(repository: Repository, tmp_path: Path, name: str) -> None:
    base = "" if name == ".cvmfscatalog" else "sw"
    with pytest.raises(SourceError, match="cvmfscatalog"):
        repository.publish(mirror(make(tmp_path / "source", {name: ""}), base))


# .cvmfsdirtab


def test_the_dirtab_makes_nested_catalogs(repository: Repository, tmp_path: Path) -> None:
    source = make(
        tmp_path / "source",
        {
            ".cvmfsdirtab": "# every version\n/software/*/*\n! */common\n/data\n/nowhere/*\n",
            "software/i686/1.0/file": "x",
            "software/i686/common/file": "x",
            "software/x86_64/2.0/.cvmfscatalog": "",
            "software/x86_64/file": "x",
            "data/set/file": "x",
        },
    )
    expected = {b"", b"/software/i686/1.0", b"/software/x86_64/2.0", b"/data"}
    predicted = repository.preview(mirror(source, ""))
    report = repository.publish(mirror(source, ""))
    assert repository.judgement().catalogs.keys() == expected
    assert paths(predicted) == paths(report)
    assert b"data/.cvmfscatalog" in report.added.paths
    assert not repository.publish(mirror(source, ""), timestamp=TIMESTAMP + 7).changed

    release = make(tmp_path / "release", {"3.0/file": "y", "common/file": "z"})
    repository.publish(merge(release, "software/x86_64"))
    expected |= {b"/software/x86_64/3.0"}
    assert repository.judgement().catalogs.keys() == expected

    (source / ".cvmfsdirtab").write_text("/software/*\n")
    repository.publish(merge(source, ""))  # markers stay, as upstream's
    expected |= {b"/software/i686", b"/software/x86_64"}
    assert repository.judgement().catalogs.keys() == expected


def test_a_new_dirtab_applies_to_what_is_published(repository: Repository, source: Path, tmp_path: Path) -> None:
    repository.publish(mirror(source, "a"), mirror(source, "b"))
    dirtab = make(tmp_path / "dirtab", {".cvmfsdirtab": "/*/lib\n/a/e?pty\n"})
    report = repository.publish(merge(dirtab, ""))
    assert repository.judgement().catalogs.keys() == {b"", b"/a/lib", b"/b/lib", b"/a/empty"}
    assert report.added.paths == [
        b".cvmfsdirtab",
        b"a/empty/.cvmfscatalog",
        b"a/lib/.cvmfscatalog",
        b"b/lib/.cvmfscatalog",
    ]
    repository.publish(delete(".cvmfsdirtab"), delete("a/lib/.cvmfscatalog"))
    assert repository.judgement().catalogs.keys() == {b"", b"/b/lib", b"/a/empty"}


def test_a_bad_dirtab(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Line 2 of /\.cvmfsdirtab is no rule: 'relative/\*'"):
        repository.publish(merge(make(tmp_path / "dirtab", {".cvmfsdirtab": "/good\nrelative/*\n"}), ""))


# What is not a publisher's business


def test_the_virtual_directory(repository: Repository, source: Path, tmp_path: Path) -> None:
    for change in (delete(".cvmfs"), delete(".cvmfs/snapshots"), mirror(source, ".cvmfs"), merge(source, ".cvmfs/x")):
        with pytest.raises(UsageError, match=r"/\.cvmfs.* belongs to CernVM-FS itself"):
            repository.publish(change)
    with pytest.raises(UsageError, match=r"/\.cvmfs belongs to CernVM-FS itself"):
        repository.publish(merge(make(tmp_path / "virtual", {".cvmfs/snapshots": "x"}), ""))
    repository.publish(mirror(source, "a/.cvmfs"))


def test_a_mirror_leaves_the_virtual_directory_alone(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, ""))
    with repository.tree() as tree:
        tree.add(b".cvmfs", DirectoryEntry(name=b".cvmfs", mode=0o40755, size=4096))
        repository.commit(tree)
    assert not repository.publish(mirror(source, "")).changed
    assert repository.seen().keys() == on_disk(source).keys() | {b".cvmfs"}


# Change sets


def test_changes_are_made_in_order(repository: Repository, source: Path) -> None:
    report = repository.publish(mirror(source, "a"), delete("a/lib"), mirror(source, "b"), delete("b"))
    assert repository.seen(b"a").keys() == {b"", b"bin", b"bin/link", b"bin/tool", b"empty"}
    assert report.removed.count == 3 + 8
    assert b"" in repository.seen()


def test_deletions(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source))
    report = repository.publish(delete("sw/lib"), delete("sw/bin/link"), delete("missing"), delete("sw/lib/small"))
    assert report.removed.paths == [b"sw/bin/link", b"sw/lib", b"sw/lib/large", b"sw/lib/small"]
    assert report.warnings == [
        "/missing was to be deleted, but is not in the repository",
        "/sw/lib/small was to be deleted, but is not in the repository",
    ]
    assert repository.seen(b"sw").keys() == {b"", b"bin", b"bin/tool", b"empty"}


def test_reports_name_the_first_paths_only(repository: Repository, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {f"{number // 100}/{number:04}": "x" for number in range(4000)})
    (source / "39" / ".cvmfscatalog").touch()
    report = repository.publish(mirror(source), max_paths=5)
    assert report.added.count == 4000 + 40 + 1 + 1
    assert report.added.is_truncated
    assert report.added.paths == [b"sw", b"sw/0", b"sw/0/0000", b"sw/0/0001", b"sw/0/0002"]
    removed = repository.publish(delete("sw"), max_paths=5).removed
    assert removed.count == 4042
    assert len(removed.paths) == 5
