# SPDX-License-Identifier: GPL-3.0-or-later
"""Refer to files that are stored in chunks by their chunks only."""

from __future__ import annotations

import argparse

from ...operations.eliminate_bulk_hashes import eliminate_bulk_hashes
from ...operations.environment import Environment
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    question = (
        f"Clients before 2.1.7 cannot read large files of {name} then. This cannot be undone.\nAre you sure (y/N)? "
    )
    if not options.force and not output.confirm(question):
        return 1
    output.print_rewrite(eliminate_bulk_hashes(environment, name), json=options.json)
    return 0
