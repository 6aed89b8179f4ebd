# SPDX-License-Identifier: GPL-3.0-or-later
"""List all tags; an old name of tag -l."""

from __future__ import annotations

import argparse
import sys

from ...operations.environment import Environment
from ..arguments import add_json, add_repository_or_url
from .tag import add_machine_readable, print_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_machine_readable(parser)
    add_json(parser)
    add_repository_or_url(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    print_list(environment, environment.resolve_for_reading(options.repository), options)
    print(f"NOTE: cvmfs_server {options.command} is deprecated! Use cvmfs_server tag instead", file=sys.stderr)
    return 0
