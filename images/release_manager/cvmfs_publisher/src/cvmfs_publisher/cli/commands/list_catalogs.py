# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the tree of nested catalogs."""

from __future__ import annotations

import argparse

from ...operations.environment import Environment
from ...operations.list_catalogs import CatalogInfo, list_catalogs
from ...paths import display
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-t", dest="tree", action="store_true", help="draw a tree (the default)")
    form.add_argument("-x", dest="machine_readable", action="store_true", help="one line of fields for each catalog")
    parser.add_argument("-s", dest="size", action="store_true", help="with the size of each catalog's database")
    parser.add_argument("-e", dest="entries", action="store_true", help="with the number of entries in each catalog")
    parser.add_argument("-h", "-d", dest="hash", action="store_true", help="with the hash of each catalog")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    catalogs = list_catalogs(environment, name)
    if options.json:
        output.print_json({"repository": name, "catalogs": [output.plain(catalog) for catalog in catalogs]})
        return 0
    for catalog in catalogs:
        lead = "" if options.machine_readable or not catalog.level else "│  " * (catalog.level - 1) + "├─ "
        print(lead + _fields(catalog, options))
    return 0


def _fields(catalog: CatalogInfo, options: argparse.Namespace) -> str:
    """Return the line of a catalog; its fields are in the order that upstream has them in."""
    fields = (
        (options.hash, catalog.hash.hex),
        (options.size, f"{catalog.size}B"),
        (options.entries, str(catalog.entries)),
        (True, f"/{display(catalog.path)}"),
    )
    return " ".join(text for wanted, text in fields if wanted)
