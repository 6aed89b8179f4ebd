# SPDX-License-Identifier: GPL-3.0-or-later
"""Change sets: what one publish does to a repository, in order."""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeVar

from ..content import ContentHash
from ..errors import UsageError
from ..mount.overlay import UnionKind
from ..paths import ROOT, parse

VERSION = 1
STANDARD_INPUT = "-"

_FORM = (
    'A change set is {"version": 1, "changes": [...]}, where a change is {"delete": "path"} or '
    '{"source": "file", "base_dir": "path", "mode": "mirror" or "merge"}'
)


class Mode(Enum):
    """What becomes of that in the base directory which the source does not have."""

    MIRROR = "mirror"
    """It goes: the base directory ends up equal to the source."""

    MERGE = "merge"
    """It stays. A directory of the source replaces a file of that name; a file replaces only an empty directory."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group, as numbers."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Content:
    """Bring the content of a directory or an archive into a base directory.

    :param source: directory, or tar archive (plain, or compressed with gzip, bzip2, xz or zstd); ``-`` is a tar
        archive on standard input
    :param base_dir: where it goes; made if needed, with its parents
    :param owner: whom all of it is given to; by default, directories keep their owners, and archives are given to the
        repository's owner
    :param keep_ownership: archives, too, keep the owners that they name
    :param nested_catalog: the base directory becomes a nested catalog
    :param allow_empty: an empty source may empty a base directory
    :param image: the source is a container image: an OCI layout, a tar file of one, or an archive of ``docker save``
    :param image_reference: which image, where there are several
    :param s3_prefix: the source is a file of S3 settings, as ``s3.conf``, and the content what its bucket has below
        this; ``/`` is everything
    """

    source: str
    base_dir: bytes
    mode: Mode
    owner: Owner | None = None
    keep_ownership: bool = False
    nested_catalog: bool = False
    allow_empty: bool = False
    image: bool = False
    image_reference: str | None = None
    s3_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """Remove a path, and all that is below it. There may be none."""

    path: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionChanges:
    """Do what was done in a union file system over a revision.

    :param directory: the scratch area
    :param kind: whose marks are in it
    :param label: names the union in messages
    :param base: the root catalog of the revision underneath, which is the one that is published
    :param path: outside which nothing may have been changed
    :param claimed: the union showed everything as one user's: whom new files are given to
    """

    directory: str
    kind: UnionKind
    label: str
    base: ContentHash
    path: bytes = ROOT
    claimed: Owner | None = None


Change = Content | Deletion | UnionChanges


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Changes that are made one after the other, and published together."""

    changes: tuple[Change, ...] = ()

    @classmethod
    def parse(cls, document: bytes, label: str) -> Self:
        """Return the change set that a JSON document describes.

        The document is ``{"version": 1, "changes": [...]}``. A change is either ``{"delete": PATH}`` or
        ``{"source": FILE, "base_dir": PATH, "mode": "mirror"|"merge"}``. To the latter, ``"nested_catalog": true`` and
        ``"allow_empty": true`` can be added, for a container image ``"image": true`` and
        ``"image_reference": NAME``, and for a bucket, whose settings are the source then, ``"s3_prefix": PREFIX``.

        :param label: names the document in messages
        :raises UsageError: when it is not of this form
        """
        try:
            content = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{label} is not JSON: {error}", remedy=_FORM) from None
        fields = _Fields(content, label)
        version = fields.take("version", int)
        if version != VERSION:
            raise UsageError(
                f"{label} is a change set of version {version}", remedy=f"This publisher reads version {VERSION}"
            )
        items = fields.take("changes", list)
        fields.end()
        return cls(tuple(_parse_change(item, f"{label}, change {number}") for number, item in enumerate(items, 1)))

    @classmethod
    def of_ingest(
        cls,
        *,
        source: str | None,
        base_dir: str | None,
        delete: Sequence[str],
        mirror: bool = False,
        nested_catalog: bool = False,
        user: str | None = None,
        group: str | None = None,
        keep_ownership: bool = False,
        image: bool = False,
        image_reference: str | None = None,
        s3_prefix: str | None = None,
    ) -> Self:
        """Return the change set of the options of ``cvmfs_server ingest``: deletions first, then the content.

        :raises UsageError: when the options do not fit together, or name something that does not exist
        """
        if source is None and base_dir is not None:
            raise UsageError(
                "There is a base directory, but nothing to put there",
                remedy="Add --tar_file, --directory, --image or --s3",
            )
        if source is not None and base_dir is None:
            raise UsageError(f"There is no place for {source}", remedy="Add --base_dir; / is the repository's root")
        if source is None and not delete:
            raise UsageError(
                "There is nothing to do",
                remedy="Use --tar_file, --directory, --image or --s3 with --base_dir, or --delete",
            )
        if keep_ownership and (user or group):
            raise UsageError(
                "Ownership is either kept or set", remedy="Use either --keep-ownership, or --user and --group"
            )
        if group and not user:
            raise UsageError("--group needs --user", remedy="Add --user")
        changes: list[Change] = [_deletion(path) for path in delete]
        if source is not None and base_dir is not None:
            changes.append(
                Content(
                    source=source,
                    base_dir=parse(base_dir),
                    mode=Mode.MIRROR if mirror else Mode.MERGE,
                    owner=find_owner(user, group) if user else None,
                    keep_ownership=keep_ownership,
                    nested_catalog=nested_catalog,
                    image=image,
                    image_reference=image_reference,
                    s3_prefix=s3_prefix,
                )
            )
        return cls(tuple(changes))


def find_owner(user: str, group: str | None = None) -> Owner:
    """Return the numbers of a user and a group, which may be given as names or numbers.

    :param group: by default the user's own; for a number without an account, the same number
    :raises UsageError: when there is no such user or group on this machine
    """
    try:
        account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        if not user.isdecimal():
            raise UsageError(f"There is no user {user!r} on this machine", remedy="Give its number") from None
        uid = gid = int(user)
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise UsageError(f"There is no group {group!r} on this machine", remedy="Give its number") from None
    return Owner(uid, gid)


def _parse_change(item: object, label: str) -> Change:
    fields = _Fields(item, label)
    change: Change
    if "delete" in fields:
        change = _deletion(fields.take("delete", str))
    else:
        change = Content(
            source=fields.take("source", str),
            base_dir=parse(fields.take("base_dir", str)),
            mode=fields.take("mode", Mode),
            nested_catalog=fields.take("nested_catalog", bool, default=False),
            allow_empty=fields.take("allow_empty", bool, default=False),
            image=fields.take("image", bool, default=False),
            image_reference=fields.take("image_reference", str) if "image_reference" in fields else None,
            s3_prefix=fields.take("s3_prefix", str) if "s3_prefix" in fields else None,
        )
        if change.image and change.s3_prefix is not None:
            raise UsageError(f"{label} is about an image and about a bucket", remedy="Make two changes of it")
        if change.image_reference is not None and not change.image:
            raise UsageError(f"{label} has a reference of an image, but no image", remedy='Add "image": true')
    fields.end()
    return change


def _deletion(text: str) -> Deletion:
    path = parse(text)
    if path == ROOT:
        raise UsageError(
            "The root of a repository cannot be deleted",
            remedy="Name what is in it, or mirror an empty directory to it with allow_empty",
        )
    return Deletion(path)


_T = TypeVar("_T")
_JSON_NAMES: Mapping[type, str] = {int: "a number", str: "a string", bool: "true or false", list: "a list"}


class _Fields:
    """The members of a JSON object, each of which is to be taken once."""

    def __init__(self, value: object, label: str) -> None:
        if not isinstance(value, Mapping):
            raise UsageError(f"{label} is not a JSON object", remedy=_FORM)
        self._values = dict(value)
        self._label = label

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, kind: type[_T], *, default: _T | None = None) -> _T:
        """Return the value of `key` and forget it; an enumeration is given by its value."""
        value = self._values.pop(key, default)
        if value is None:
            raise UsageError(f"{self._label} lacks the key {key!r}", remedy=_FORM)
        if issubclass(kind, Enum) and value in [item.value for item in kind]:
            return kind(value)
        if type(value) is not kind:
            choices = " or ".join(repr(item.value) for item in kind) if issubclass(kind, Enum) else _JSON_NAMES[kind]
            raise UsageError(f"{self._label}: {key!r} must be {choices}, not {value!r}", remedy=_FORM)
        if isinstance(value, str) and not _is_file_name(value):
            raise UsageError(f"{self._label}: {key!r} must be the name of a file, not {value!r}", remedy=_FORM)
        return value

    def end(self) -> None:
        """Refuse what has not been taken."""
        for key in self._values:
            raise UsageError(f"{self._label} has the unknown key {key!r}", remedy=_FORM)


def _is_file_name(text: str) -> bool:
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
