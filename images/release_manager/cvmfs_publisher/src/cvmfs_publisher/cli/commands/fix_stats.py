# SPDX-License-Identifier: GPL-3.0-or-later
"""Count anew what the catalogs have."""

from __future__ import annotations

import argparse

from ...operations.environment import Environment
from ...operations.fix_stats import fix_stats
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    question = f"All catalogs of {name} will be written anew.\nAre you sure (y/N)? "
    if not options.force and not output.confirm(question):
        return 1
    output.print_rewrite(fix_stats(environment, name), json=options.json)
    return 0
