# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing from another bucket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from changes.repository import OWNER, Repository, merge, mirror

from cvmfs_publisher.changes.change_set import Content
from cvmfs_publisher.errors import ConfigurationError, SourceChanged, SourceError, StorageError
from cvmfs_publisher.storage import S3Config, S3Store
from operations.managers import ReleaseManager, s3_settings
from operations.reading import published

FILES = {
    "one": b"1",
    "empty": b"",
    "large": os.urandom(20_000_000),
    "a/deep/file": b"deep",
    "a/deep.txt": b"beside",  # before "a/deep/" in the bucket's order
    "with space + plus/ümlaut & <x>": b"odd",
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


class Other:
    """What is to be published: a prefix of a bucket, in which there is something else besides."""

    def __init__(self, config: S3Config, directory: Path) -> None:
        self.conf = directory / "other.s3.conf"
        s3_settings(config, self.conf)
        self.prefix = f"other-{os.urandom(4).hex()}"
        self.store = S3Store(replace(config, prefix=self.prefix))
        S3Store(replace(config, prefix="")).put(f"{self.prefix}wise", b"not this")
        for key, data in FILES.items():
            self.store.put(key, data)

    def content(self, make: Callable[..., Content] = mirror, **options: object) -> Content:
        return make(self.conf, s3_prefix=self.prefix, **options)


@pytest.fixture
def other(s3_bucket: S3Config, tmp_path: Path) -> Other:
    return Other(s3_bucket, tmp_path)


def contents(repository: Repository) -> dict[str, bytes | None]:
    return {path.decode(): seen.content for path, seen in repository.seen(b"sw").items() if path}


DIRECTORIES: dict[str, bytes | None] = {"a": None, "a/deep": None, "with space + plus": None}


def test_objects_become_files(repository: Repository, other: Other) -> None:
    report = repository.publish(other.content())
    assert contents(repository) == FILES | DIRECTORIES
    seen = repository.seen(b"sw")
    listed = {info.key: info.last_modified for info in other.store.list("")}
    for path, what in seen.items():
        assert (what.uid, what.gid) == (OWNER.uid, OWNER.gid)
        if stat.S_ISREG(what.mode):
            assert what.mode == stat.S_IFREG | 0o644
            assert abs(what.mtime_ns / 1e9 - listed[path.decode()].timestamp()) < 0.001
        else:
            assert what.mode == stat.S_IFDIR | 0o755
    assert report.files == len(FILES)


def test_only_what_changed_is_read(repository: Repository, other: Other) -> None:
    repository.publish(other.content())
    again = repository.publish(other.content())
    assert (again.changed, again.files) == (False, 0)
    other.store.put("a/deep/file", b"DEEP")
    other.store.delete("one")
    third = repository.publish(other.content())
    assert (third.modified.paths, third.removed.paths, third.files) == ([b"sw/a/deep/file"], [b"sw/one"], 1)
    expected = {**FILES, **DIRECTORIES, "a/deep/file": b"DEEP"}
    del expected["one"]
    assert contents(repository) == expected


def test_ingest(local: ReleaseManager, other: Other) -> None:
    local.server("ingest", "--s3", other.conf, "--s3-prefix", other.prefix, "-b", "sw").succeeded()
    assert published(local).tree[b"sw/a/deep/file"].content == b"deep"
    local.server("ingest", "--s3", other.conf, "-b", "all").succeeded()
    assert published(local).tree[b"all/%swise" % other.prefix.encode()].content == b"not this"


def test_merge_and_preview(repository: Repository, other: Other) -> None:
    preview = repository.preview(other.content(merge))
    assert preview.added.count == len(FILES) + len(DIRECTORIES) + 1
    repository.publish(other.content(merge))
    other.store.delete("empty")
    assert not repository.publish(other.content(merge)).changed


def test_catalogs_and_rules(repository: Repository, other: Other) -> None:
    other.store.put(".cvmfsdirtab", b"/a\n")
    repository.publish(other.content(mirror, base=""))
    assert repository.judgement().rows[b"/a/.cvmfscatalog"].size == 0


def test_directories_that_consoles_make(repository: Repository, other: Other) -> None:
    for key in ("a/", "new/", "new/empty/"):
        other.store.put(key, b"")
    repository.publish(other.content())
    assert contents(repository) == FILES | DIRECTORIES | {"new": None, "new/empty": None}


def test_the_directory_that_consoles_make_of_the_prefix(
    repository: Repository, other: Other, s3_bucket: S3Config
) -> None:
    S3Store(replace(s3_bucket, prefix="")).put(f"{other.prefix}/", b"")
    repository.publish(other.content())
    assert contents(repository) == FILES | DIRECTORIES


@pytest.mark.parametrize("prefix", ["with, comma", "with@at"])
def test_odd_prefixes(repository: Repository, other: Other, s3_bucket: S3Config, prefix: str) -> None:
    S3Store(replace(s3_bucket, prefix=prefix)).put("file", b"1")
    repository.publish(mirror(other.conf, s3_prefix=prefix))
    assert contents(repository) == {"file": b"1"}


def test_names_that_cannot_be_listed(repository: Repository, other: Other) -> None:
    other.store.put("with \x01", b"x")
    with pytest.raises(StorageError, match="cannot be listed"):
        repository.publish(other.content())
    other.store.delete("with \x01")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("one/below", "file and directory at once"),
        ("x//y", "cannot be that of a file"),
        ("../escape", "cannot be that of a file"),
        ("x/./y", "cannot be that of a file"),
        ("not-empty/", "cannot be that of a file"),
        ("n" * 256, "more than 255 bytes"),
        ("a/deep", "as if it were a directory|file and directory at once"),
    ],
)
def test_names_that_files_cannot_have(repository: Repository, other: Other, key: str, says: str) -> None:
    other.store.put(key, b"x")
    with pytest.raises(SourceError, match=says):
        repository.publish(other.content())
    assert repository.root is None


def test_change_meanwhile(repository: Repository, other: Other) -> None:
    repository.store.meddle = lambda: other.store.put("late", b"x")
    with pytest.raises(SourceChanged, match="changed while it was being read"):
        repository.publish(other.content())


@pytest.mark.parametrize("meddle", ["shrink", "remove"])
def test_object_that_changes_before_it_is_read(repository: Repository, other: Other, meddle: str) -> None:
    def change() -> None:
        if meddle == "shrink":
            other.store.put("with space + plus/ümlaut & <x>", b"")
        else:
            other.store.delete("with space + plus/ümlaut & <x>")

    repository.store.meddle = change
    with pytest.raises(SourceChanged):
        repository.publish(other.content())


def test_object_that_is_replaced_while_it_is_read(
    repository: Repository, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of the same size. The bucket's second listing would tell, if it is of another second."""
    plainly = S3Store.get_in_parts

    def meddled_with(store: S3Store, key: str, part_size: int) -> Iterator[bytes]:
        for part in plainly(store, key, part_size):
            if key == "large":
                other.store.put(key, os.urandom(len(FILES[key])))
            yield part

    monkeypatch.setattr(S3Store, "get_in_parts", meddled_with)
    with pytest.raises(SourceChanged, match=r"large in .* changed while it was being read"):
        repository.publish(other.content())


def test_bucket_that_is_not_there(repository: Repository, other: Other, tmp_path: Path) -> None:
    text = other.conf.read_text()
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("".join(f"{line}-missing\n" if "_BUCKET=" in line else f"{line}\n" for line in text.splitlines()))
    with pytest.raises(StorageError, match="missing"):
        repository.publish(mirror(wrong, s3_prefix="/"))
    with pytest.raises(ConfigurationError, match="nowhere"):
        repository.publish(mirror(tmp_path / "nowhere", s3_prefix="/"))
