# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring catalogs that earlier versions of CernVM-FS wrote to the latest schema."""

from __future__ import annotations

import argparse

from ...operations.environment import Environment
from ...operations.migrate import migrate
from .. import output
from ..arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("repositories", nargs="*", metavar="FQRN", help="repository names")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    for name in options.repositories or [None]:
        output.print_rewrite(migrate(environment, environment.resolve(name)), json=options.json)
    return 0
