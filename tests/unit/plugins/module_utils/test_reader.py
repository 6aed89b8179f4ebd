# SPDX-License-Identifier: GPL-3.0-or-later
"""The independent reader, over real HTTP, on a repository that CernVM-FS's own tools have made."""

from __future__ import annotations

import hashlib
import pathlib
import sqlite3
import stat
import zlib
from collections.abc import Callable

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _reader
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import HttpError, HttpReader, ObjectMissing
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import VerificationError
from conftest import FIXTURE_NAME

ROOT_HASH = "f9ceb892c13bf5df6f5c53b21ffb2bf2b5350f8e"
NESTED_HASH = "4545d25f2e84571801e174de8ce673c4bea85aaf"


@pytest.fixture
def repository(upstream_url: str, upstream_key: str) -> _reader.Repository:
    return _reader.Repository(upstream_url, [upstream_key])


def test_revision(repository: _reader.Repository) -> None:
    revision = repository.revision()
    assert (revision.number, revision.root_hash) == (2, ROOT_HASH)
    assert revision.whitelist.repository == FIXTURE_NAME


def test_walk_yields_every_path_once(repository: _reader.Repository) -> None:
    paths = [path for path, _entry in repository.walk()]
    assert sorted(paths) == [
        b"",
        b"sw",
        b"sw/1.0",
        b"sw/1.0/.cvmfscatalog",
        b"sw/1.0/bin",
        b"sw/1.0/bin/tool",
        b"sw/1.0/link",
        b"sw/1.0/share",
        b"sw/1.0/share/zeros",
        b"sw/empty",
        b"sw/latin-\xe9",
        b"sw/new\nline",
        b"sw/pipe",
        b"sw/variant",
    ]


def test_entries(repository: _reader.Repository) -> None:
    entries = dict(repository.walk())
    tool = entries[b"sw/1.0/bin/tool"]
    assert (tool.mode, tool.size, tool.linkcount) == (stat.S_IFREG | 0o755, 10, 1)
    assert tool.xattrs == {}
    assert entries[b"sw/1.0/link"].symlink == b"bin/tool"
    assert entries[b"sw/variant"].symlink == b"$(HOME)/x"
    assert entries[b"sw/1.0/share"].mode == stat.S_IFDIR | 0o2750
    assert (entries[b"sw/empty"].uid, entries[b"sw/empty"].gid, entries[b"sw/empty"].size) == (1000, 1001, 0)
    assert stat.S_ISFIFO(entries[b"sw/pipe"].mode)
    zeros = entries[b"sw/1.0/share/zeros"]
    assert zeros.size == 36 << 20
    assert [piece.offset for piece in zeros.pieces] == [0, 16 << 20, 32 << 20]


def test_read(repository: _reader.Repository) -> None:
    assert repository.read(b"sw/1.0/bin/tool") == b"int main;\n"
    assert repository.read(b"sw/latin-\xe9") == b"b"
    assert repository.read(b"sw/empty") == b""
    assert repository.read(b"sw/1.0/share/zeros") == bytes(36 << 20)


@pytest.mark.parametrize("path", [b"nothing", b"sw", b"sw/1.0/link", b"sw/1.0/nothing"])
def test_what_cannot_be_read(repository: _reader.Repository, path: bytes) -> None:
    with pytest.raises(KeyError):
        repository.read(path)


def test_tags(repository: _reader.Repository) -> None:
    tags = {tag["name"]: tag for tag in repository.tags()}
    assert tags["first"]["revision"] == 2
    assert tags["first"]["root_hash"] == ROOT_HASH
    assert tags["first"]["description"] == "first release"


def test_an_older_revision_can_be_read(repository: _reader.Repository) -> None:
    previous = {tag["name"]: tag for tag in repository.tags()}["trunk-previous"]
    paths = [path for path, _entry in repository.walk(previous["root_hash"])]
    assert paths == [b"", b"new_repository"]


def test_catalogs_are_without_problems(repository: _reader.Repository) -> None:
    root, nested = repository.catalogs()
    assert (root.path, nested.path) == (b"", b"sw/1.0")
    assert root.check() == nested.check() == []
    assert _reader.check_counters(root, [nested]) == _reader.check_counters(nested, []) == []
    assert root.totals()["regular"] == 6
    assert root.totals()["nested"] == 1


def test_another_name_is_refused(upstream_url: str, upstream_key: str) -> None:
    with pytest.raises(
        VerificationError, match=r"is that of repository fixture\.example\.org, not of other\.example\.org"
    ):
        _reader.Repository(upstream_url, [upstream_key], fqrn="other.example.org").revision()


def test_what_the_server_does_not_have(upstream_url: str) -> None:
    with pytest.raises(ObjectMissing, match="does not exist"):
        HttpReader(upstream_url).get("nothing")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(HttpError, match="Is the server up"):
        HttpReader("http://127.0.0.1:9/x").get(".cvmfspublished")


@pytest.mark.parametrize("url", ["ftp://example.org/x", "example.org", "http:///x", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(HttpError, match="is no URL"):
        HttpReader(url)


def test_a_damaged_object(upstream_repository: pathlib.Path, repository: _reader.Repository) -> None:
    key = repository.entry(b"sw/1.0/bin/tool").pieces[0].key
    (upstream_repository / key).write_bytes(zlib.compress(b"int evil;\n"))
    with pytest.raises(VerificationError, match="is damaged"):
        repository.read(b"sw/1.0/bin/tool")


def _catalog(repository: _reader.Repository, tmp_path: pathlib.Path, statement: str, path: bytes) -> _reader.Catalog:
    """Return one of the fixture's catalogs after an SQL statement."""
    data = repository.get_object(_reader.object_key(NESTED_HASH if path else ROOT_HASH, "C"))
    file = tmp_path / "catalog"
    file.write_bytes(data)
    with sqlite3.connect(file) as database:
        database.execute(statement)
    database.close()
    return _reader.Catalog(file.read_bytes(), path)


@pytest.mark.parametrize(
    ("statement", "path", "problem"),
    [
        ("DELETE FROM catalog WHERE name = '1.0'", b"", "both marked as a nested catalog and registered"),
        ("DELETE FROM nested_catalogs", b"", "both marked as a nested catalog and registered"),
        ("UPDATE catalog SET parent_1 = 7 WHERE name = 'empty'", b"", "that no directory leads to"),
        ("UPDATE catalog SET name = 'other' WHERE name = 'empty'", b"", "stored under another path's hash"),
        ("UPDATE catalog SET hardlinks = 9 WHERE name = 'sw'", b"", "link count 9 where 3 is right"),
        ("UPDATE catalog SET hardlinks = 2 WHERE name = 'empty'", b"", "several links and no hard link group"),
        ("UPDATE catalog SET hardlinks = (1 << 32) | 2 WHERE name = 'empty'", b"", "members contradict each other"),
        ("UPDATE catalog SET hash = NULL WHERE name = 'empty'", b"", "has content for 0 of 0 bytes"),
        ("UPDATE catalog SET flags = flags & ~32 WHERE flags & 32", b"sw/1.0", "wrongly marked as the root"),
        ("DELETE FROM catalog WHERE name = '.cvmfscatalog'", b"sw/1.0", "without .cvmfscatalog"),
        ("DELETE FROM chunks WHERE offset = 16777216", b"sw/1.0", "has no chunk at offset 16777216"),
        ("DELETE FROM chunks WHERE offset = 33554432", b"sw/1.0", "has content for 33554432 of 37748736 bytes"),
        ("UPDATE properties SET value = '/sw/2.0' WHERE key = 'root_prefix'", b"sw/1.0", "for another path"),
    ],
)
def test_a_catalog_that_contradicts_itself(
    repository: _reader.Repository, tmp_path: pathlib.Path, statement: str, path: bytes, problem: str
) -> None:
    problems = [message for _path, message in _catalog(repository, tmp_path, statement, path).check()]
    assert any(problem in message for message in problems), problems


@pytest.mark.parametrize("counter", ["self_regular", "subtree_file_size", "self_nested", "subtree_xattr"])
def test_a_counter_that_is_wrong(repository: _reader.Repository, tmp_path: pathlib.Path, counter: str) -> None:
    statement = f"UPDATE statistics SET value = value + 1 WHERE counter = '{counter}'"  # noqa: S608
    catalog = _catalog(repository, tmp_path, statement, b"")
    nested = repository.catalog(NESTED_HASH, b"sw/1.0")
    problems = [message for _path, message in _reader.check_counters(catalog, [nested])]
    assert len(problems) == 1
    assert f"whose counter {counter} is" in problems[0]


@pytest.mark.parametrize(
    "damage",
    [lambda _data: b"", lambda _data: b"no database", lambda data: data[: len(data) // 2]],
    ids=["empty", "no database", "cut short"],
)
def test_a_catalog_that_is_no_database(repository: _reader.Repository, damage: Callable[[bytes], bytes]) -> None:
    data = repository.get_object(_reader.object_key(ROOT_HASH, "C"))
    with pytest.raises(VerificationError, match=r"no usable database|no entry for its root"):
        _reader.Catalog(damage(data), b"")


def test_a_catalog_of_the_first_schema_revision(repository: _reader.Repository, tmp_path: pathlib.Path) -> None:
    """Revision 0 has neither nested catalogs' sizes nor xattrs nor nanoseconds."""
    file = tmp_path / "catalog"
    file.write_bytes(repository.get_object(_reader.object_key(ROOT_HASH, "C")))
    with sqlite3.connect(file) as database:
        for table, column in (("catalog", "xattr"), ("catalog", "mtimens"), ("nested_catalogs", "size")):
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("DELETE FROM statistics WHERE counter LIKE '%external%' OR counter LIKE '%special%'")
    database.close()
    catalog = _reader.Catalog(file.read_bytes(), b"")
    assert catalog.check() == []
    assert catalog.nested[0].size is None
    assert catalog.entries[b"sw/empty"].mtime_ns is None


class TestXattrs:
    def test_several(self) -> None:
        data = b"\x01\x02" + b"\x06\x01user.av" + b"\x06\x00user.b"
        assert _reader.parse_xattrs(data) == {b"user.a": b"v", b"user.b": b""}

    @pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x01", b"\x01\x01\x06"])
    def test_cut_short(self, data: bytes) -> None:
        with pytest.raises(VerificationError, match="cut short"):
            _reader.parse_xattrs(data)

    def test_another_version(self) -> None:
        with pytest.raises(VerificationError, match="version 2"):
            _reader.parse_xattrs(b"\x02\x00")


class TestUnpack:
    def test_without_compression(self) -> None:
        data = b"as it is"
        key = _reader.object_key(hashlib.sha1(data).hexdigest())  # noqa: S324
        assert _reader.unpack(key, data, 1) == data

    def test_what_is_no_zlib_stream(self) -> None:
        data = b"as it is"
        key = _reader.object_key(hashlib.sha1(data).hexdigest())  # noqa: S324
        with pytest.raises(VerificationError, match="cannot be decompressed"):
            _reader.unpack(key, data)

    @pytest.mark.parametrize("key", ["data/ab", "info/v1/meta.json", "data/AB/" + "c" * 38])
    def test_what_is_no_object(self, key: str) -> None:
        with pytest.raises(VerificationError, match="is no object's place"):
            _reader.unpack(_reader.Key(key), b"")
