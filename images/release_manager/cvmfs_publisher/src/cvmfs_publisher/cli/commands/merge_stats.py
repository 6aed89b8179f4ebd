# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge two statistics databases of one repository into a new one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...operations.statistics import merge_statistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("output.db"), metavar="FILE", help="the new one (output.db)"
    )
    parser.add_argument("first", type=Path, metavar="DB_FILE_1", help="a statistics database")
    parser.add_argument("second", type=Path, metavar="DB_FILE_2", help="another one")


def run(options: argparse.Namespace) -> int:
    merge_statistics(options.first, options.second, options.output)
    print(f"Success: {options.first} and {options.second} were merged in {options.output}")
    return 0
