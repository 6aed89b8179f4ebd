# SPDX-License-Identifier: GPL-3.0-or-later
"""How changes are applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..content import Compression
from ..progress import Progress
from ..storage import ObjectStore
from .change_set import Owner
from .entry import FileContent
from .limits import Limits
from .owner_map import Owners
from .report import Tell


@dataclass(frozen=True, slots=True)
class Balance:
    """When catalogs are divided and merged: ``CVMFS_AUTOCATALOGS_MAX_WEIGHT`` and ``…_MIN_WEIGHT``.

    :param max_weight: entries above which a catalog is divided, into pieces of at most half of that
    :param min_weight: entries below which a catalog that was made automatically is merged into the one above
    """

    max_weight: int = 100_000
    min_weight: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOptions:
    """How changes are applied.

    :param owner: the repository's owner, to whom archives and newly made parent directories are given
    :param owners: what becomes of the owners that sources have, or changes name
    :param balance: keep catalogs small by nested catalogs, ``CVMFS_AUTOCATALOGS``; None leaves catalogs alone
    :param limits: sizes that are warned of
    :param cloned: the directory that was copied before all changes, and how many entries it has
    :param timestamp: modification time of newly made parent directories, in seconds since the epoch
    :param scratch_dir: room for a list of an archive's members
    :param store: the repository, for reading a published ``.cvmfsdirtab``
    :param checksum: read every file, also those whose attributes are as published
    :param mtime_ns: publish and compare modification times with nanoseconds: ``CVMFS_ENABLE_MTIME_NS``
    :param include_xattrs: publish and compare extended attributes: ``CVMFS_INCLUDE_XATTRS``
    :param ignore_special_files: leave out fifos, sockets and device nodes: ``CVMFS_IGNORE_SPECIAL_FILES``
    :param compression: how grafted files are stored that do not say
    :param external: publish new content as external, without storing it: ``CVMFS_EXTERNAL_DATA``
    :param direct_io: let clients bypass their page cache for new content
    :param max_paths: how many paths of each kind the report names
    :param tell: told of all of them
    :param standard_input: what the source ``-`` is read from
    :param note_published: told of the content of published files that are read anew, as it need not be stored again
    :param progress: told of files that are as published; the pipeline tells of those that it takes
    """

    owner: Owner
    timestamp: int
    scratch_dir: Path
    store: ObjectStore
    checksum: bool = False
    mtime_ns: bool = True
    include_xattrs: bool = False
    ignore_special_files: bool = False
    compression: Compression = Compression.ZLIB
    external: bool = False
    direct_io: bool = False
    max_paths: int = 1000
    tell: Tell | None = None
    standard_input: BinaryIO | None = None
    progress: Progress | None = None
    note_published: Callable[[FileContent], None] = lambda _: None
    owners: Owners = field(default_factory=Owners)
    balance: Balance | None = None
    limits: Limits = field(default_factory=Limits)
    cloned: tuple[bytes, int] | None = None
