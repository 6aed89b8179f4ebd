# SPDX-License-Identifier: GPL-3.0-or-later
"""The tag database and the reflog."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.content import ContentHash, HashSuffix
from cvmfs_publisher.errors import CorruptObject, RepositoryError, UsageError
from cvmfs_publisher.repository import History, Manifest, Reflog, Tag, document
from cvmfs_publisher.repository.reflog import ReferenceType

from .conftest import NAME


def root(number: int) -> ContentHash:
    return ContentHash(number.to_bytes(20, "big"), suffix=HashSuffix.CATALOG)


def tag(name: str, revision: int = 1, **attributes: object) -> Tag:
    values: dict[str, object] = {"timestamp": 1000 + revision, **attributes}
    return Tag(name=name, root_hash=root(revision), size=7, revision=revision, **values)  # type: ignore[arg-type]


def query(data: bytes, sql: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(":memory:")
    db.deserialize(data)
    return db.execute(sql).fetchall()


# Tags


def test_trunk_follows_the_newest_revision() -> None:
    history = History(NAME)
    for revision in (1, 2, 3):
        history.set_trunk(root(revision), 7, revision, 1000 + revision)
    assert [(found.name, found.revision, found.description) for found in history.tags()] == [
        ("trunk", 3, "current HEAD"),
        ("trunk-previous", 2, "default undo target"),
    ]


def test_tags_survive_in_cernvmfs_own_schema() -> None:
    history = History(NAME, ContentHash(bytes(19) + b"x", suffix=HashSuffix.HISTORY))
    history.set_trunk(root(2), 7, 2, 1002)
    history.add(tag("v1.0/beta:2", description="Größe zwei"))
    data = history.serialise()
    again = History.parse(data)
    assert again.tags() == history.tags()
    assert (again.repository, again.previous) == (NAME, history.previous)
    assert again.serialise() == data
    assert query(data, "SELECT * FROM properties ORDER BY key") == [
        ("fqrn", NAME),
        ("previous_revision", bytes(19).hex() + "78"),
        ("schema", "1.0"),
        ("schema_revision", "3"),
    ]
    assert query(data, "SELECT * FROM branches") == [("", None, 0)]
    assert query(data, "SELECT hash, channel, branch FROM tags WHERE name = 'trunk'") == [(root(2).hex, 0, "")]
    assert query(data, "SELECT count(*) FROM recycle_bin") == [(0,)]
    assert query(data, "PRAGMA foreign_key_check") == []


descriptions = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=5)


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z0-9_./:-]{1,9}", fullmatch=True), descriptions), max_size=9))
def test_any_tags_survive(tags: list[tuple[str, str]]) -> None:
    history = History(NAME)
    for number, (name, description) in enumerate(tags):
        if name not in ("trunk", "trunk-previous"):
            history.move(tag(name, number, description=description))
    assert History.parse(history.serialise()).tags() == history.tags()


def test_adding_moving_and_removing_tags() -> None:
    history = History(NAME)
    history.add(tag("a", 1, description="first"))
    with pytest.raises(RepositoryError, match="already has a tag 'a'"):
        history.add(tag("a", 2))
    history.move(tag("a", 2))
    assert (history.get("a").revision, history.get("a").description) == (2, "first")
    assert history.remove("a").revision == 2
    assert history.find("a") is None
    with pytest.raises(RepositoryError, match="no tag 'a'"):
        history.remove("a")


@pytest.mark.parametrize("name", ["trunk", "trunk-previous", "", "a b", "ä", "a\n", "a$b"])
def test_names_that_cernvmfs_does_not_allow(name: str) -> None:
    history = History(NAME)
    history.set_trunk(root(1), 7, 1, 1)
    for change in (history.add, history.move):
        with pytest.raises(UsageError):
            change(tag(name))
    with pytest.raises(UsageError):
        history.remove(name)


@pytest.mark.parametrize("description", ["a\nb", "a\0b", "\udcff"])
def test_descriptions_are_one_line_of_text(description: str) -> None:
    with pytest.raises(UsageError, match="cannot describe a tag"):
        History(NAME).add(tag("a", description=description))


def test_automatic_tags() -> None:
    history = History(NAME)
    names = []
    for _ in range(3):
        names.append(history.new_auto_tag_name(1_700_000_000))
        history.add(tag(names[-1], timestamp=1_700_000_000))
    assert names == [
        "generic-2023-11-14T22:13:20Z",
        "generic_1-2023-11-14T22:13:20Z",
        "generic_2-2023-11-14T22:13:20Z",
    ]
    history.add(tag("generic-2023-11-14T22:13:20.123Z", timestamp=1_700_000_000))
    history.add(tag("generic-but-mine", timestamp=1_700_000_000))
    history.add(tag(history.new_auto_tag_name(1_700_000_001), timestamp=1_700_000_001))
    assert len(history.remove_auto_tags(1_700_000_001)) == 4
    assert {found.name for found in history.tags()} == {"generic-but-mine", "generic-2023-11-14T22:13:21Z"}


def _old_history(columns: str, rows: list[tuple[object, ...]], *extra: str) -> bytes:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE properties (key TEXT, value TEXT)")
    db.execute("INSERT INTO properties VALUES ('fqrn', ?), ('schema', '1.0')", (NAME,))
    db.execute(f"CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, {columns})")
    for statement in extra:
        db.execute(statement)
    places = ", ".join("?" * len(rows[0]))
    db.executemany(f"INSERT INTO tags VALUES ({places})", rows)  # noqa: S608
    db.commit()
    return db.serialize()


def test_tag_databases_of_earlier_revisions_are_read() -> None:
    data = _old_history("channel INTEGER, description TEXT", [("a", root(1).hex, 1, 5, 0, None)])
    assert History.parse(data).tags() == [Tag(name="a", root_hash=root(1), size=0, revision=1, timestamp=5)]
    assert query(History.parse(data).serialise(), "SELECT branch FROM tags") == [("",)]


def test_branches_are_kept_as_long_as_they_have_tags() -> None:
    data = _old_history(
        "channel INTEGER, description TEXT, size INTEGER, branch TEXT",
        [("a", root(1).hex, 1, 5, 0, "", 1, ""), ("b", root(2).hex, 2, 6, 0, "", 1, "leaf")],
        "CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER)",
        "INSERT INTO branches VALUES ('', NULL, 0), ('stem', '', 1), ('leaf', 'stem', 2), ('dead', '', 1)",
    )
    history = History.parse(data)
    branches = "SELECT branch, parent, initial_revision FROM branches ORDER BY branch"
    assert query(history.serialise(), branches) == [("", None, 0), ("leaf", "", 2)]
    history.remove("b")
    assert query(history.serialise(), branches) == [("", None, 0)]


# Reflog


def manifest(revision: int) -> Manifest:
    return Manifest(
        repository=NAME,
        root_hash=root(revision),
        catalog_size=1,
        revision=revision,
        timestamp=1000 + revision,
        certificate=ContentHash(b"c" * 20, suffix=HashSuffix.CERTIFICATE),
        history=ContentHash(b"h" * 19 + bytes([revision]), suffix=HashSuffix.HISTORY),
        meta_info=ContentHash(b"m" * 20, suffix=HashSuffix.METAINFO),
    )


def test_the_reflog_survives_in_cernvmfs_own_schema() -> None:
    reflog = Reflog(NAME)
    reflog.add_manifest(manifest(1))
    reflog.add_manifest(manifest(2))
    data = reflog.serialise()
    again = Reflog.parse(data)
    assert again.repository == NAME
    assert again.serialise() == data
    assert again.references(ReferenceType.CATALOG) == [(root(2), 1002), (root(1), 1001)]
    assert [time for _, time in again.references(ReferenceType.CERTIFICATE)] == [1002]
    assert len(again.references(ReferenceType.HISTORY)) == 2
    assert query(data, "SELECT hash, type FROM refs WHERE timestamp = 1001 ORDER BY type") == [
        (root(1).hex, 0),
        ((b"h" * 19 + b"\1").hex(), 2),
    ]
    assert sorted(query(data, "SELECT * FROM properties")) == [
        ("fqrn", NAME),
        ("schema", "1.0"),
        ("schema_revision", "0"),
    ]


def test_the_reflogs_bytes_do_not_depend_on_how_it_came_about() -> None:
    one, two = Reflog(NAME), Reflog(NAME)
    for revision in (1, 2, 3):
        one.add_manifest(manifest(revision))
    two.add_manifest(manifest(1))
    two.add_manifest(manifest(2))
    two = Reflog.parse(two.serialise())
    two.add_manifest(manifest(3))
    assert one.serialise() == two.serialise()


@pytest.mark.parametrize("data", [b"", b"no database at all", b"SQLite format 3\0" + bytes(5000)])
def test_damaged_databases_are_named(data: bytes) -> None:
    with pytest.raises(CorruptObject, match="tag database"):
        History.parse(data)
    with pytest.raises(CorruptObject, match="reflog"):
        Reflog.parse(data)


def test_sqlite_without_serialize_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As EL 9's. What a publisher on one distribution has lost, one on another restores byte for byte."""
    history = History(NAME)
    for revision in range(1, 400):
        history.add(tag(f"v{revision}", revision, description="x" * 200))
    data = history.serialise()
    monkeypatch.setattr(document, "_HAS_SERIALIZE", False)
    assert history.serialise() == data
    assert History.parse(data).tags() == history.tags()
    for damaged in (b"x", b"x" * 5000, data[:5000]):
        with pytest.raises(CorruptObject, match="is damaged"):
            History.parse(damaged)
