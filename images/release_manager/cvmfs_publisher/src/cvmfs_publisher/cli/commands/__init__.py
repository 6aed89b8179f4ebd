# SPDX-License-Identifier: GPL-3.0-or-later
"""The subcommands, one module each: declare the options, call the operation, print the result."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import cast

from ..arguments import Command

_MODULES = {
    "mkfs": "mkfs",
    "import": "import_",
    "copy": "copy_",
    "list": "list_",
    "info": "info",
    "transaction": "transaction",
    "publish": "publish",
    "abort": "abort",
    "mount": "mount",
    "enter": "enter",
    "ingest": "ingest",
    "tag": "tag",
    "lstags": "list_tags",
    "list-tags": "list_tags",
    "rollback": "rollback",
    "diff": "diff",
    "checkout": "checkout",
    "resign": "resign",
    "check": "check",
    "list-catalogs": "list_catalogs",
    "catalog-chown": "catalog_chown",
    "eliminate-hardlinks": "eliminate_hardlinks",
    "eliminate-bulk-hashes": "eliminate_bulk_hashes",
    "fix-stats": "fix_stats",
    "migrate": "migrate",
    "gc": "gc",
    "update-repoinfo": "update_repoinfo",
    "update-info": "update_info",
    "rmfs": "rmfs",
    "skeleton": "skeleton",
    "print-stats": "print_stats",
    "merge-stats": "merge_stats",
}


class _Commands(Mapping[str, Command]):
    """The subcommands by their names. A module is loaded when it is asked for, as loading all of them takes time."""

    def __getitem__(self, name: str) -> Command:
        return cast(Command, importlib.import_module(f".{_MODULES[name]}", __name__))

    def __contains__(self, name: object) -> bool:
        return name in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


COMMANDS = _Commands()
