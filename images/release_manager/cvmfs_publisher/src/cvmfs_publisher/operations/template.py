# SPDX-License-Identifier: GPL-3.0-or-later
"""Template transactions: a transaction that begins with a copy of a directory elsewhere in the repository.

Only metadata is copied. As upstream does, the catalogs with the copy are stored when the transaction is opened, so that
it can be seen and edited; nothing refers to them until the transaction is published.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..catalog import WritableCatalogTree
from ..changes.draft import refuse_virtual
from ..content import ContentHash, HashSuffix, put_object
from ..errors import TemplateError, UsageError
from ..paths import ROOT, display, is_below, parent, parse
from ..repository import Repository
from ..storage import Bytes


@dataclass(frozen=True, slots=True)
class Template:
    """What is copied where.

    :param source: a directory of the repository
    :param target: where its copy is to be; nothing is there yet
    """

    source: bytes
    target: bytes

    @classmethod
    def parse(cls, source: str, target: str) -> Self:
        """Return the template that a user names.

        :raises UsageError: when these are no two paths one of which can be copied to the other
        """
        template = cls(parse(source), parse(target))
        if ROOT in (template.source, template.target):
            raise UsageError(
                "The root of a repository is neither copied nor replaced", remedy="Name two directories below it"
            )
        if is_below(template.target, template.source):
            raise UsageError(
                f"/{display(template.source)} cannot be copied into itself, to /{display(template.target)}",
                remedy="Copy it to another place",
            )
        refuse_virtual(template.target)
        return template


@dataclass(frozen=True, slots=True)
class Clone:
    """A revision in the making, with the copy in it.

    :param root_hash: its root catalog
    :param entries: how many there are in the copy
    """

    root_hash: ContentHash
    entries: int


def clone(repository: Repository, root: ContentHash, template: Template, leased: bytes, scratch: Path) -> Clone:
    """Store the catalogs with the copy in them.

    :param root: the root catalog to begin with
    :param leased: the directory that the transaction is for
    :raises TemplateError: when there is nothing to copy, or no place for it
    """
    if not is_below(template.target, leased):
        raise TemplateError(
            f"/{display(template.target)} is outside /{display(leased)}, which the transaction is for",
            remedy="Open the transaction for the whole repository",
        )
    with WritableCatalogTree(repository.store, root, scratch) as tree:
        _check(tree, template)

        def put(data: Bytes) -> tuple[ContentHash, int]:
            return put_object(repository.store, data, HashSuffix.CATALOG, root.algorithm)

        try:
            entries = tree.clone(template.source, template.target)
        except UsageError as error:
            raise TemplateError(error.message, remedy=error.remedy) from None
        committed = tree.commit(put, repository.manifest.revision + 1, int(time.time()))
        return Clone(committed.root_hash, entries)


def _check(tree: WritableCatalogTree, template: Template) -> None:
    for path in (template.source, parent(template.target)):
        entry = tree.entry(path)
        if entry is None or not entry.is_directory:
            raise TemplateError(
                f"/{display(path)} " + ("does not exist" if entry is None else "is no directory"),
                remedy="Name an existing directory, and a new one in an existing directory",
            )
    if tree.entry(template.target) is not None:
        raise TemplateError(f"/{display(template.target)} exists already", remedy="Copy to another place")
