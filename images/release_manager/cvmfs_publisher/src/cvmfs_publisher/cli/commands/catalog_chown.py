# SPDX-License-Identifier: GPL-3.0-or-later
"""Give everything in the repository to other users and groups, as two maps say."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...operations.catalog_chown import catalog_chown
from ...operations.environment import Environment
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    form = "lines FROM TO, and * TO for all others"
    parser.add_argument("-u", dest="uid_map", metavar="FILE", type=Path, required=True, help=f"map of users: {form}")
    parser.add_argument("-g", dest="gid_map", metavar="FILE", type=Path, required=True, help=f"map of groups: {form}")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    output.print_rewrite(catalog_chown(environment, name, options.uid_map, options.gid_map), json=options.json)
    return 0
