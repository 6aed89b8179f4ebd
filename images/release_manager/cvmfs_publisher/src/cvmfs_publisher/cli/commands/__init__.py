# SPDX-License-Identifier: GPL-3.0-or-later
"""The subcommands, one module each: declare the options, call the operation, print the result."""

from __future__ import annotations

from typing import cast

from ..arguments import Command
from . import (
    abort,
    catalog_chown,
    check,
    checkout,
    copy_,
    diff,
    eliminate_bulk_hashes,
    eliminate_hardlinks,
    enter,
    fix_stats,
    gc,
    import_,
    info,
    ingest,
    list_,
    list_catalogs,
    list_tags,
    merge_stats,
    migrate,
    mkfs,
    mount,
    print_stats,
    publish,
    resign,
    rmfs,
    rollback,
    skeleton,
    tag,
    transaction,
    update_info,
    update_repoinfo,
)

COMMANDS: dict[str, Command] = {
    name: cast(Command, module)
    for name, module in (
        ("mkfs", mkfs),
        ("import", import_),
        ("copy", copy_),
        ("list", list_),
        ("info", info),
        ("transaction", transaction),
        ("publish", publish),
        ("abort", abort),
        ("mount", mount),
        ("enter", enter),
        ("ingest", ingest),
        ("tag", tag),
        ("lstags", list_tags),
        ("list-tags", list_tags),
        ("rollback", rollback),
        ("diff", diff),
        ("checkout", checkout),
        ("resign", resign),
        ("check", check),
        ("list-catalogs", list_catalogs),
        ("catalog-chown", catalog_chown),
        ("eliminate-hardlinks", eliminate_hardlinks),
        ("eliminate-bulk-hashes", eliminate_bulk_hashes),
        ("fix-stats", fix_stats),
        ("migrate", migrate),
        ("gc", gc),
        ("update-repoinfo", update_repoinfo),
        ("update-info", update_info),
        ("rmfs", rmfs),
        ("skeleton", skeleton),
        ("print-stats", print_stats),
        ("merge-stats", merge_stats),
    )
}
