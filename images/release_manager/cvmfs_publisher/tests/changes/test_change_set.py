# SPDX-License-Identifier: GPL-3.0-or-later
"""Change sets: the JSON document, and the options of ingest."""

from __future__ import annotations

import getpass
import json
import os
from typing import Any

import pytest

from cvmfs_publisher.changes.change_set import ChangeSet, Content, Deletion, Mode, Owner, find_owner
from cvmfs_publisher.errors import UsageError


def parse(document: object) -> ChangeSet:
    return ChangeSet.parse(json.dumps(document).encode(), "changes.json")


def test_a_document() -> None:
    found = parse(
        {
            "version": 1,
            "changes": [
                {"delete": "/old/path/"},
                {"source": "/source/opt/sw", "base_dir": "sw/1.0", "mode": "mirror"},
                {"source": "-", "base_dir": "/", "mode": "merge", "nested_catalog": True, "allow_empty": True},
            ],
        }
    )
    assert found.changes == (
        Deletion(b"old/path"),
        Content("/source/opt/sw", b"sw/1.0", Mode.MIRROR),
        Content("-", b"", Mode.MERGE, nested_catalog=True, allow_empty=True),
    )


def test_names_can_be_any_bytes() -> None:
    found = ChangeSet.parse(rb'{"version": 1, "changes": [{"delete": "caf\udce9/\u00e9"}]}', "changes.json")
    assert found.changes == (Deletion(b"caf\xe9/\xc3\xa9"),)


def test_an_empty_document() -> None:
    assert parse({"version": 1, "changes": []}) == ChangeSet()


CONTENT = {"source": "/a", "base_dir": "a", "mode": "merge"}
BAD: dict[str, tuple[object, str]] = {
    "no object": ([], "changes.json is not a JSON object"),
    "no version": ({"changes": []}, "changes.json lacks the key 'version'"),
    "another version": (
        {"version": 2, "changes": []},
        "changes.json is a change set of version 2. This publisher reads",
    ),
    "a version that is no number": ({"version": "1", "changes": []}, "'version' must be a number, not '1'"),
    "a version that is true": ({"version": True, "changes": []}, "'version' must be a number, not True"),
    "no changes": ({"version": 1}, "changes.json lacks the key 'changes'"),
    "changes that are no list": ({"version": 1, "changes": {}}, "'changes' must be a list, not {}"),
    "another key": ({"version": 1, "changes": [], "tag": "x"}, "changes.json has the unknown key 'tag'"),
}
BAD_CHANGES: dict[str, tuple[object, str]] = {
    "no object": ("delete", "is not a JSON object"),
    "an empty object": ({}, "lacks the key 'source'"),
    "no base directory": ({"source": "/a", "mode": "merge"}, "lacks the key 'base_dir'"),
    "no mode": ({"source": "/a", "base_dir": "a"}, "lacks the key 'mode'"),
    "another mode": ({**CONTENT, "mode": "sync"}, "'mode' must be 'mirror' or 'merge', not 'sync'"),
    "a mode that is no string": ({**CONTENT, "mode": 1}, "'mode' must be 'mirror' or 'merge', not 1"),
    "a source that is no string": ({**CONTENT, "source": 7}, "'source' must be a string, not 7"),
    "an empty source": ({**CONTENT, "source": ""}, "'source' must be the name of a file, not ''"),
    "a source with a NUL": ({**CONTENT, "source": "a\0b"}, "'source' must be the name of a file"),
    "text that is no name": ({**CONTENT, "source": "\ud800"}, "'source' must be the name of a file"),
    "a path that is no name": ({"delete": "a/\ud800"}, "'delete' must be the name of a file"),
    "a switch that is no switch": ({**CONTENT, "allow_empty": 1}, "'allow_empty' must be true or false, not 1"),
    "both at once": ({**CONTENT, "delete": "b"}, "has the unknown key 'source'"),
    "another key": ({**CONTENT, "owner": "me"}, "has the unknown key 'owner'"),
    "a path with dots": ({**CONTENT, "base_dir": "a/../b"}, "'a/../b' is not a path inside a repository"),
    "a deletion with dots": ({"delete": "../b"}, "'../b' is not a path inside a repository"),
    "the root": ({"delete": "/"}, "The root of a repository cannot be deleted"),
    "nothing": ({"delete": None}, "lacks the key 'delete'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_documents(case: str) -> None:
    document, message = BAD[case]
    with pytest.raises(UsageError) as caught:
        parse(document)
    assert message in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("case", BAD_CHANGES)
def test_bad_changes(case: str) -> None:
    change, message = BAD_CHANGES[case]
    with pytest.raises(UsageError) as caught:
        parse({"version": 1, "changes": [CONTENT, change]})
    assert message in str(caught.value)
    assert "path" in message or "root" in message or "changes.json, change 2" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"changes\.json is not JSON"):
        ChangeSet.parse(text, "changes.json")


def ingest(**options: Any) -> ChangeSet:
    return ChangeSet.of_ingest(**{"source": None, "base_dir": None, "delete": [], **options})


def test_ingest_deletes_first() -> None:
    found = ingest(source="a.tar", base_dir="/sw", delete=["old", "older"])
    assert found.changes == (Deletion(b"old"), Deletion(b"older"), Content("a.tar", b"sw", Mode.MERGE))


def test_ingest_with_all_options() -> None:
    found = ingest(source="/dir", base_dir="sw", mirror=True, nested_catalog=True, user="12", group="34")
    assert found.changes == (Content("/dir", b"sw", Mode.MIRROR, owner=Owner(12, 34), nested_catalog=True),)
    kept = ingest(source="/dir", base_dir="/", keep_ownership=True)
    assert kept.changes == (Content("/dir", b"", Mode.MERGE, keep_ownership=True),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "There is nothing to do"),
        ({"base_dir": "sw"}, "There is a base directory, but nothing to put there"),
        ({"source": "a.tar"}, "There is no place for a.tar"),
        ({"source": "a", "base_dir": "b", "group": "1"}, "--group needs --user"),
        ({"source": "a", "base_dir": "b", "user": "1", "keep_ownership": True}, "Ownership is either kept or set"),
        ({"source": "a", "base_dir": "b", "user": "no such user"}, "There is no user 'no such user'"),
        ({"source": "a", "base_dir": "b", "user": "1", "group": "no such"}, "There is no group 'no such'"),
        ({"delete": ["a/./b"]}, "is not a path inside a repository"),
    ],
)
def test_ingest_with_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ingest(**options)
    assert caught.value.remedy


def test_owners_by_name_and_number() -> None:
    assert find_owner(getpass.getuser()) == Owner(os.getuid(), os.getgid())
    assert find_owner(str(os.getuid())) == Owner(os.getuid(), os.getgid())
    assert find_owner("987654321") == Owner(987654321, 987654321)
    assert find_owner("root", "77") == Owner(0, 77)
