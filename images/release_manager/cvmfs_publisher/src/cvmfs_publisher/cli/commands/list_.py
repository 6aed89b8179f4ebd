# SPDX-License-Identifier: GPL-3.0-or-later
"""List the repositories that are configured here."""

from __future__ import annotations

import argparse

from ...operations.environment import Environment
from ...operations.info import list_repositories
from .. import output
from ..arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline",
        action="store_true",
        help="tell what this host knows alone, its open transactions among it; the storage may be down",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    repositories = list_repositories(Environment.of_process(), offline=options.offline)
    if options.json:
        output.print_json({"repositories": [output.plain(repository) for repository in repositories]})
        return 0
    for repository in repositories:
        # As upstream: what is checked out has brackets of its own
        remarks = "".join(f"{' ' if remark.startswith('[') else ' - '}{remark}" for remark in repository.remarks)
        print(f"{repository.repository} ({repository.type} / {repository.storage_type}{remarks})")
    return 0
