# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the directories that a repository on local storage is kept in."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from ...operations.skeleton import skeleton
from .. import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="owner", metavar="USER", help="user that the directories are to belong to")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where they are made")


def run(options: argparse.Namespace) -> int:
    user = getpass.getuser()
    owner = options.owner
    if owner is None:
        owner = output.ask(f"Owner of {options.directory} [{user}]: ") or user
    skeleton(options.directory, owner)
    print(f"Creating repository skeleton in {options.directory}...done")
    return 0
