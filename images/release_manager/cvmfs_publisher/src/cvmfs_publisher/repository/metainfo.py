# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON documents that describe a repository and its server, for people and for monitoring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import CorruptObject, UsageError

REPOSITORIES_KEY = "info/v1/repositories.json"
"""Lists a server's repositories; next to the repositories' directories, not inside one."""
SERVER_META_KEY = "info/v1/meta.json"
"""Describes a server's administrator; next to the repositories' directories."""
_SCHEMA = 1

SERVER_META: Mapping[str, Any] = {
    "administrator": "Your Name",
    "email": "you@organisation.org",
    "organisation": "Your Organisation",
    "custom": {"_comment": "Put arbitrary structured data here"},
}
"""What a server says about itself until somebody edits it; CernVM-FS's own text."""

REPOSITORY_META: Mapping[str, Any] = {
    "administrator": "Your Name",
    "email": "you@organisation.org",
    "organisation": "Your Organisation",
    "description": "Repository content",
    "url": "Project website",
    "recommended-stratum0": "stratum 0 url",
    "recommended-stratum1s": ["stratum1 url", "stratum1 url"],
    "custom": {"_comment": "Put arbitrary structured data here"},
}
"""What a repository says about itself until somebody edits it; CernVM-FS's own text."""


def dump(document: Mapping[str, Any]) -> bytes:
    """Return a document as people like to read it."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def check_meta(data: bytes) -> None:
    """Refuse meta information that is no JSON object.

    :raises UsageError: then
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise UsageError(f"The meta information is no JSON: {error}", remedy="Correct it") from None
    if not isinstance(document, dict):
        raise UsageError("The meta information is no JSON object", remedy='Write it as {"administrator": …}')


def lists(existing: bytes, name: str) -> bool:
    """Say whether a list of repositories has one of that name; one that cannot be read has none."""
    try:
        return any(entry["name"] == name for entry in json.loads(existing)["repositories"])
    except (ValueError, TypeError, KeyError):
        return False


def add_repository(existing: bytes | None, name: str) -> bytes:
    """Return the list of repositories with one more in it.

    :param existing: the list so far; None for a new server
    :raises CorruptObject: when that is no such list
    """
    document: dict[str, Any] = {"schema": _SCHEMA, "repositories": [], "replicas": []}
    if existing is not None:
        try:
            document |= dict(json.loads(existing).items())
            repositories = [entry for entry in document["repositories"] if entry["name"] != name]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptObject(
                f"{REPOSITORIES_KEY} is no list of repositories ({error})", remedy="Repair or remove that object"
            ) from None
    else:
        repositories = []
    repositories.append({"name": name, "url": f"/cvmfs/{name}"})
    document["repositories"] = sorted(repositories, key=lambda entry: str(entry["name"]))
    return dump(document)


def remove_repository(existing: bytes, name: str) -> bytes:
    """Return the list of repositories without one of them.

    :raises CorruptObject: when it is no such list
    """
    try:
        document = dict(json.loads(existing).items())
        document["repositories"] = [entry for entry in document["repositories"] if entry["name"] != name]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptObject(
            f"{REPOSITORIES_KEY} is no list of repositories ({error})", remedy="Repair or remove that object"
        ) from None
    return dump(document)
