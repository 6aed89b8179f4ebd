# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the statistics of publishes, or of garbage collections."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import UsageError
from ...operations.environment import Environment
from ...operations.statistics import read_statistics
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write to a file")
    parser.add_argument("-s", dest="separator", default="|", metavar="TEXT", help="between columns (default: |)")
    parser.add_argument(
        "-t",
        dest="table",
        default="publish_statistics",
        metavar="TABLE",
        help="publish_statistics (the default), gc_statistics, run_statistics or properties",
    )
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    table = read_statistics(environment, name, options.table)
    if options.json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows] if table else []
        output.print_json({"repository": name, "table": options.table, "rows": rows})
        return 0
    if table is None:
        print(f"No statistics database file for {name} repository.")
        return 0
    # As upstream, no header without rows
    lines = [options.separator.join(row) for row in ([table.columns, *table.rows] if table.rows else [])]
    text = "".join(f"{line}\n" for line in lines)
    if options.output is None:
        print(text, end="")
        return 0
    try:
        options.output.write_text(text)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {options.output}: {error.strerror}", remedy="Choose another file (-o)"
        ) from error
    return 0
