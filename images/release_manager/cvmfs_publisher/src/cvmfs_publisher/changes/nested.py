# SPDX-License-Identifier: GPL-3.0-or-later
"""Nested catalogs that nobody marked by hand: those that ``.cvmfsdirtab`` means, and those that keep catalogs small.

The rules of both are CernVM-FS's; ``docs/formats.md`` has them in words.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..catalog import AUTO_MARKER, MARKER, Catalog, DirectoryRow
from ..content import BytesSource
from ..paths import ROOT, display, is_below, join, md5path
from .change_set import Owner
from .dirtab import DIRTAB, Dirtab
from .draft import UNREAD, VIRTUAL_DIRECTORY, Draft
from .entry import FileContent
from .options import Balance

# .cvmfsdirtab


def apply_dirtab(draft: Draft, before: Dirtab | None) -> None:
    """Turn those directories into nested catalogs that ``.cvmfsdirtab`` means, and no change went through.

    As long as the rules stay, these can only be among those that the draft knows to lack a marker.

    :param before: the rules that have been applied; None: none have been, to something in the tree
    """
    dirtab = draft.dirtab
    found = set(filter(dirtab.covers, draft.unmarked) if dirtab == before else _meant(draft))
    for directory in sorted(found, reverse=True):  # what lies deeper first, so that it moves only once
        entry = draft.tree.entry(directory)
        if entry is not None and entry.is_directory and draft.tree.entry(join(directory, MARKER)) is None:
            _mark(draft, join(directory, MARKER), 0o644)
            if directory in draft.markers_removed:
                draft.warn_of_marker(directory)
    _drain(draft)


def _meant(draft: Draft) -> Iterator[bytes]:
    """Yield the directories that the rules mean, and warn of rules that mean none."""
    for line, rule in zip(draft.dirtab.lines, draft.dirtab.rules, strict=True):
        found = [ROOT]
        for pattern in rule:
            found = [
                join(directory, entry.name)
                for directory in found
                for entry in draft.tree.listing(directory)
                if entry.is_directory and not entry.is_bind_mountpoint and pattern.fullmatch(entry.name)
            ]
        if not found:
            draft.report.warnings.append(f"There is no directory that {display(line)} in /{display(DIRTAB)} means")
        for directory in found:
            if not draft.dirtab.excludes(directory) and not is_below(directory, VIRTUAL_DIRECTORY):
                yield directory


# Balance


def balance(draft: Draft, weights: Balance) -> None:
    """Divide those of the changed catalogs that are too large, and merge those that are too small into others.

    Catalogs that were made by hand are never merged.
    """
    tree = draft.tree
    for path in tree.changed_catalogs():
        catalog = tree.catalog(path)
        weight = catalog.count_entries()
        if path != ROOT and weight < weights.min_weight and tree.entry(join(path, AUTO_MARKER)) is not None:
            for name in (AUTO_MARKER, MARKER):
                marker = tree.entry(join(path, name))
                tree.remove(join(path, name))
                draft.report.removed.add(join(path, name), marker)
        elif weight > weights.max_weight:
            for directory in _divide(draft, catalog, weights):
                entry = tree.entry(directory)
                owner = Owner(entry.uid, entry.gid) if entry is not None else None
                for name in (AUTO_MARKER, MARKER):
                    _mark(draft, join(directory, name), 0o600, owner)
                _drain(draft)


@dataclass(slots=True)
class _Node:
    """A directory of a catalog that is to be divided.

    :param files: what is directly in it, but for directories
    :param weight: the entries that it brings into the catalog
    """

    path: bytes
    files: int = 0
    weight: int = 1
    is_mountpoint: bool = False
    children: list[_Node] = field(default_factory=list)


def _divide(draft: Draft, catalog: Catalog, weights: Balance) -> list[bytes]:
    """Return the directories that become nested catalogs, those inside others first."""
    chosen: list[bytes] = []
    limit = weights.max_weight // 2
    for node in reversed(_directories(catalog)):  # so that all below a directory come before it
        node.weight = 1 + node.files + sum(child.weight for child in node.children)
        inner = sorted(
            (child for child in node.children if not child.is_mountpoint),
            key=lambda child: (-child.weight, child.path),
        )
        for heaviest in inner:
            if node.weight <= limit or heaviest.weight < weights.min_weight:
                break
            chosen.append(heaviest.path)
            node.weight -= heaviest.weight - 1
            heaviest.weight = 1
            heaviest.is_mountpoint = True
        if node.weight > limit:
            draft.report.warnings.append(
                f"/{display(node.path)} brings {node.weight} entries into one catalog, more than {limit}, and has no "
                f"subdirectory of at least {weights.min_weight} entries that could have a catalog of its own"
            )
    return chosen


def _directories(catalog: Catalog) -> list[_Node]:
    """Return the directories of a catalog, its root first, each before those below it."""
    files = catalog.files_by_directory()
    below: dict[tuple[int, int], list[DirectoryRow]] = {}
    for row in catalog.directories():
        below.setdefault(row.parent, []).append(row)
    nodes = [_Node(catalog.path, files.get(md5path(catalog.path), 0))]
    keys = [md5path(catalog.path)]
    for node, key in zip(nodes, keys, strict=True):  # both grow
        for row in below.get(key, ()):
            child = _Node(join(node.path, row.name), files.get(row.key, 0), is_mountpoint=row.is_mountpoint)
            node.children.append(child)
            if not row.is_mountpoint:
                nodes.append(child)
                keys.append(row.key)
    return nodes


# Both


def _mark(draft: Draft, marker: bytes, mode: int, owner: Owner | None = None) -> None:
    """Add an empty file that marks a nested catalog."""
    entry = draft.made_up(marker, stat.S_IFREG | mode, owner)

    def store(content: FileContent) -> None:
        draft.tree.add(marker, draft.to_published(entry, content))
        draft.report.added.add(marker, entry)

    if draft.contents is None:
        store(UNREAD)
    else:
        draft.contents.submit(BytesSource(b"", display(marker)), store, MARKER)


def _drain(draft: Draft) -> None:
    if draft.contents is not None:
        draft.contents.drain()
