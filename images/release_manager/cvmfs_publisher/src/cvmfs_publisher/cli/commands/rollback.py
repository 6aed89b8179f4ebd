# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish an old revision once more as the newest; tags of the revisions between are removed.

Without -t the last revision is undone, which works once.
"""

from __future__ import annotations

import argparse
import sys

from ...operations.environment import Environment
from ...operations.rollback import require_target, rollback
from .. import output
from ..arguments import add_json, add_repository, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-t", dest="tag", metavar="TAG", help="tag to go back to (default: the revision before)")
    where.add_argument(
        "--undo",
        type=whole_number(1),
        metavar="REVISION",
        help="go back to the revision before this one, unless there is a newer one",
    )
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask whether it is meant")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    require_target(environment, name, options.tag, options.undo)
    what = "UNDO your last published revision" if options.tag is None else None
    what = what or f"ROLLBACK to {options.tag} AS THE LATEST REVISION"
    if not options.force and not output.confirm(f"You are about to {what}!  Are you sure (y/N)? "):
        return 1
    result = rollback(environment, name, options.tag, undo=options.undo)
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if options.json:
        output.print_json(result)
        return 0
    print(f"Rolling back repository (leaving behind {result.previous_root_hash.hex})")
    width = max((len(tag.name) for tag in result.removed), default=0)
    for tag in result.removed:
        print(f"removed tag {tag.name.ljust(width)} ({tag.root_hash.hex})")
    print(f"{name}: published revision {result.revision}.")
    return 0
