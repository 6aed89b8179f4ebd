# SPDX-License-Identifier: GPL-3.0-or-later
"""Drop the open transaction and everything in it."""

from __future__ import annotations

import argparse
import errno

from ...operations.environment import Environment
from ...operations.transaction import abort
from .. import output
from ..arguments import add_json, repository_and_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask; break somebody else's lease too")
    parser.add_argument("--transaction", metavar="ID", help="abort only if this is the open transaction")
    add_json(parser)
    parser.add_argument("repository", nargs="?", metavar="FQRN", help="repository name")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(repository_and_path(options.repository)[0])
    certain = options.force or options.transaction
    question = f"You are about to DISCARD ALL CHANGES OF THE CURRENT TRANSACTION for {name}!  Are you sure (y/N)? "
    if not certain and not output.confirm(question):
        return errno.EINTR
    warnings = abort(environment, name, transaction_id=options.transaction, force=options.force)
    output.warn(warnings)
    if options.json:
        output.print_json({"repository": name, "aborted": True, "warnings": warnings})
    else:
        print(f"Aborted the transaction on {name}.")
    return 0
