# SPDX-License-Identifier: GPL-3.0-or-later
"""Let the next transaction begin with a tag, and publish onto a branch.

With -b the head of that branch, with -b and -t a tag that a new branch begins with, and without options the newest
revision of the main line, as before. The next publish needs a tag's name (-a).
"""

from __future__ import annotations

import argparse

from ...operations.checkout import checkout
from ...operations.environment import Environment
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-b", dest="branch", metavar="BRANCH", help="branch to publish onto")
    parser.add_argument("-t", dest="tag", metavar="TAG", help="tag that a new branch begins with")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    result = checkout(environment, name, branch=options.branch, tag=options.tag)
    if options.json:
        output.print_json(result)
    elif result.root_hash is None:
        print("Reset to trunk on default branch")
    else:
        where = "onto new branch" if result.is_new else "on branch"
        print(f"Checked out tag {result.tag} ({result.root_hash.hex}) {where} {result.branch}")
    return 0
