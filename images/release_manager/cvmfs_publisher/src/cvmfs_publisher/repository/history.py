# SPDX-License-Identifier: GPL-3.0-or-later
"""The history: named snapshots (tags), kept in a database of their own (CernVM-FS's ``history_sql.cc``)."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace

from ..content import ContentHash, HashSuffix
from ..errors import RepositoryError, UsageError
from . import document

TRUNK = "trunk"
TRUNK_PREVIOUS = "trunk-previous"
_TRUNK_DESCRIPTION = "current HEAD"
_TRUNK_PREVIOUS_DESCRIPTION = "default undo target"

_SCHEMA = "1.0"
_SCHEMA_REVISION = 3
_NO_PREVIOUS = "0" * 40  # CernVM-FS expects the property to be there

_TAG_NAME = re.compile(r"[A-Za-z0-9_./:-]+", re.ASCII)
_BRANCH_NAME = re.compile(r"[A-Za-z0-9_@./-]+", re.ASCII)
_AUTO_TAG = re.compile(r"generic(_\d+)?-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A named snapshot.

    :param root_hash: root catalog
    :param size: bytes of the root catalog's database, uncompressed
    :param timestamp: seconds since 1970
    :param branch: empty for the main line
    """

    name: str
    root_hash: ContentHash
    size: int
    revision: int
    timestamp: int
    description: str = ""
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """A line of development; the main one has an empty name and no parent."""

    name: str
    parent: str | None
    initial_revision: int


class History:
    """All tags of a repository.

    :param repository: fully qualified name
    :param previous: the history's object in the revision before
    """

    def __init__(self, repository: str, previous: ContentHash | None = None) -> None:
        self.repository = repository
        self.previous = previous
        self._tags: dict[str, Tag] = {}
        self._branches: dict[str, Branch] = {"": Branch("", None, 0)}

    @classmethod
    def parse(cls, data: bytes) -> History:
        """Read a tag database, of the current or an earlier revision of its schema.

        :raises CorruptObject: when it is none
        """
        with document.opened(data, "tag database") as connection:
            properties = document.read_properties(connection)
            present = document.columns(connection, "tags")
            wanted = ("name", "hash", "size", "revision", "timestamp", "description", "branch")
            selected = ", ".join(column if column in present else f"NULL AS {column}" for column in wanted)
            tags = connection.execute(f"SELECT {selected} FROM tags ORDER BY rowid").fetchall()  # noqa: S608
            branches = []
            if document.columns(connection, "branches"):
                branches = connection.execute(
                    "SELECT branch, parent, initial_revision FROM branches ORDER BY rowid"
                ).fetchall()
        previous = properties.get("previous_revision", _NO_PREVIOUS)
        history = cls(
            properties.get("fqrn", ""),
            None if previous == _NO_PREVIOUS else ContentHash.parse(previous).with_suffix(HashSuffix.HISTORY),
        )
        for name, root_hash, size, revision, timestamp, description, branch in tags:
            history._tags[name] = Tag(
                name=name,
                root_hash=ContentHash.parse(root_hash).with_suffix(HashSuffix.CATALOG),
                size=size or 0,
                revision=revision,
                timestamp=timestamp,
                description=description or "",
                branch=branch or "",
            )
        for branch, parent, initial_revision in branches:
            history._branches[branch] = Branch(branch, parent, initial_revision)
        return history

    def serialise(self) -> bytes:
        """Return the database. Branches without a tag are left out: CernVM-FS's check calls them dangling."""
        properties = {
            "fqrn": self.repository,
            "previous_revision": self.previous.hex if self.previous else _NO_PREVIOUS,
        }
        with document.created(_SCHEMA, _SCHEMA_REVISION, properties) as connection:
            connection.execute(
                "CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER,"
                " CONSTRAINT pk_branch PRIMARY KEY (branch),"
                " FOREIGN KEY (parent) REFERENCES branches (branch),"
                " CHECK ((branch <> '') OR (parent IS NULL)), CHECK ((branch = '') OR (parent IS NOT NULL)))"
            )
            connection.execute(
                "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,"
                " description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name),"
                " FOREIGN KEY (branch) REFERENCES branches (branch))"
            )
            connection.execute(
                "CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash))"
            )
            connection.executemany(
                "INSERT INTO branches VALUES (?, ?, ?)",
                ((branch.name, branch.parent, branch.initial_revision) for branch in self.branches()),
            )
            connection.executemany(
                "INSERT INTO tags VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
                (
                    (
                        tag.name,
                        tag.root_hash.hex,
                        tag.revision,
                        tag.timestamp,
                        tag.description,
                        tag.size,
                        tag.branch,
                    )
                    for tag in self._tags.values()
                ),
            )
            return document.finished(connection)

    def tags(self) -> list[Tag]:
        """Return all tags, newest first; of the same age and revision, in the order in which they were made."""
        return sorted(self._tags.values(), key=lambda tag: (tag.timestamp, tag.revision), reverse=True)

    def branches(self) -> list[Branch]:
        """Return the branches that have tags; the parent of each is one of them, or the main line."""
        used = {tag.branch for tag in self._tags.values()}
        unknown = [Branch(name, "" if name else None, 0) for name in sorted(used - self._branches.keys())]
        result = []
        for branch in [*self._branches.values(), *unknown]:
            if branch.name not in used:
                continue
            while branch.parent and branch.parent not in used:
                above = self._branches.get(branch.parent)
                branch = replace(branch, parent=above.parent if above and above.parent is not None else "")
            result.append(branch)
        if "" not in used and any(branch.parent == "" for branch in result):
            result.insert(0, Branch("", None, 0))
        return result

    def head_of(self, branch: str) -> Tag | None:
        """Return the newest tag on a branch, or None when the branch has none."""
        return next((tag for tag in self.tags() if tag.branch == branch), None)

    def at(self, timestamp: int) -> Tag | None:
        """Return the tag of the main line that was the newest at a point in time, or None.

        Clients choose it in the same way for ``CVMFS_REPOSITORY_DATE``.
        """
        earlier = [tag for tag in self.tags() if tag.branch == "" and tag.timestamp <= timestamp]
        return max(earlier, key=lambda tag: tag.revision, default=None)

    def of_revision(self, revision: int) -> Tag | None:
        """Return a tag of that revision of the main line, or None."""
        return next((tag for tag in self.tags() if tag.branch == "" and tag.revision == revision), None)

    def find(self, name: str) -> Tag | None:
        """Return a tag, or None."""
        return self._tags.get(name)

    def get(self, name: str) -> Tag:
        """Return a tag.

        :raises RepositoryError: when there is none of that name
        """
        tag = self._tags.get(name)
        if tag is None:
            raise RepositoryError(
                f"{self.repository} has no tag {name!r}", remedy=f"List them: cvmfs_server tag -l {self.repository}"
            )
        return tag

    def add(self, tag: Tag) -> None:
        """Add a tag.

        :raises UsageError: for a name that CernVM-FS does not allow, or a description that is no text
        :raises RepositoryError: when the name is taken
        """
        self.require_new(tag.name)
        check_description(tag.description)
        self._tags[tag.name] = tag

    def require_new(self, name: str) -> None:
        """Refuse a name that `add` would refuse.

        :raises UsageError: for a name that CernVM-FS does not allow
        :raises RepositoryError: when the name is taken
        """
        check_tag_name(name)
        if name in self._tags:
            raise RepositoryError(
                f"{self.repository} already has a tag {name!r}",
                remedy=f"Choose another name, or remove it: cvmfs_server tag -r {name} {self.repository}",
            )

    def move(self, tag: Tag) -> None:
        """Add a tag, or let an existing one point elsewhere; then it keeps its branch and, if need be, description.

        :raises UsageError: for a name that CernVM-FS does not allow, or a description that is no text
        """
        check_tag_name(tag.name)
        check_description(tag.description)
        old = self._tags.pop(tag.name, None)
        if old is not None:
            tag = replace(tag, branch=old.branch, description=tag.description or old.description)
        self._tags[tag.name] = tag

    def remove(self, name: str) -> Tag:
        """Remove a tag and return what it was.

        :raises UsageError: for `trunk` and `trunk-previous`
        :raises RepositoryError: when there is none of that name
        """
        check_tag_name(name)
        tag = self.get(name)
        del self._tags[name]
        return tag

    def add_branch(self, name: str, parent: str, initial_revision: int) -> None:
        """Note a new branch, unless there is one of that name; it is kept for as long as it has tags.

        :param parent: the branch that it leaves
        :raises UsageError: for a name that CernVM-FS does not allow
        """
        check_branch_name(name)
        self._branches.setdefault(name, Branch(name, parent, initial_revision))

    def rollback(self, target: Tag) -> list[Tag]:
        """Forget what came after a tag of the main line, and the tag itself, which is to be added anew.

        :returns: the tags that went, newest first
        """
        gone = [
            tag
            for tag in self._tags.values()
            if tag.branch == "" and (tag.revision > target.revision or tag.name == target.name)
        ]
        for tag in gone:
            del self._tags[tag.name]
        self._tags.pop(TRUNK, None)  # so that the next one has no predecessor
        return sorted(gone, key=lambda tag: tag.revision, reverse=True)

    def set_trunk(self, root_hash: ContentHash, size: int, revision: int, timestamp: int) -> None:
        """Let `trunk` be a new revision, and `trunk-previous` the one before."""
        old = self._tags.pop(TRUNK, None)
        self._tags.pop(TRUNK_PREVIOUS, None)
        if old is not None:
            self._tags[TRUNK_PREVIOUS] = replace(old, name=TRUNK_PREVIOUS, description=_TRUNK_PREVIOUS_DESCRIPTION)
        self._tags[TRUNK] = Tag(
            name=TRUNK,
            root_hash=root_hash,
            size=size,
            revision=revision,
            timestamp=timestamp,
            description=_TRUNK_DESCRIPTION,
        )

    def new_auto_tag_name(self, timestamp: int) -> str:
        """Return the name that CernVM-FS gives to a revision whose publisher did not name it."""
        moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name, number = f"generic-{moment}", 0
        while name in self._tags:
            number += 1
            name = f"generic_{number}-{moment}"
        return name

    def has_auto_tags(self) -> bool:
        """Say whether there are automatic tags."""
        return any(_AUTO_TAG.match(name) for name in self._tags)

    def remove_auto_tags(self, before: int) -> list[Tag]:
        """Remove the automatic tags that are older than a point in time, and return them."""
        outdated = [tag for tag in self.tags() if _AUTO_TAG.match(tag.name) and tag.timestamp < before]
        for tag in outdated:
            del self._tags[tag.name]
        return outdated


def check_tag_name(name: str) -> None:
    """Refuse a name that CernVM-FS does not allow for tags.

    :raises UsageError: then
    """
    if name in (TRUNK, TRUNK_PREVIOUS):
        raise UsageError(
            f"The tag {name!r} follows the newest revisions by itself, and cannot be set or removed",
            remedy="Use another name",
        )
    if not _TAG_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a tag name", remedy="Use letters, digits and any of _ - . / :")


def check_branch_name(name: str) -> None:
    """Refuse a name that CernVM-FS does not allow for branches.

    :raises UsageError: then
    """
    if not _BRANCH_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a branch name", remedy="Use letters, digits and any of _ - . @ /")


def check_description(text: str) -> None:
    """Refuse a tag's description that is no text, or of more than one line, as lists of tags have a line for each.

    :raises UsageError: then
    """
    if any(character in text for character in "\0\n\r") or not _is_text(text):
        raise UsageError(f"{text!r} cannot describe a tag", remedy="Use one line of UTF-8 text")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that were not UTF-8
        return False
    return True
