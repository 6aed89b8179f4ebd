# SPDX-License-Identifier: GPL-3.0-or-later
"""Make each name of a file that has several a file of its own."""

from __future__ import annotations

import argparse

from ...operations.eliminate_hardlinks import eliminate_hardlinks
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
    question = f"All hard links in {name} will be broken up, which cannot be undone.\nAre you sure (y/N)? "
    if not options.force and not output.confirm(question):
        return 1
    output.print_rewrite(eliminate_hardlinks(environment, name), json=options.json)
    return 0
