# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a transaction.

Exit codes as upstream's: 17 a transaction is open here already, 16 somebody else has one open, 22 the whitelist has
expired, 2 the path does not exist, 20 the path is not a directory.
"""

from __future__ import annotations

import argparse
import errno
import sys

from ...errors import InTransaction, LeaseHeld, NotADirectory, PathNotFound, PublisherError, WhitelistExpired
from ...operations.environment import Environment
from ...operations.transaction import open_transaction
from .. import output
from ..arguments import add_json, repository_and_path, whole_number

_EXIT_CODES: dict[type[PublisherError], int] = {
    InTransaction: errno.EEXIST,
    LeaseHeld: errno.EBUSY,
    WhitelistExpired: errno.EINVAL,
    PathNotFound: errno.ENOENT,
    NotADirectory: errno.ENOTDIR,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--retry-timeout",
        type=whole_number(0),
        metavar="SECONDS",
        help="wait that long for somebody else's transaction to end; 0 waits for ever",
    )
    add_json(parser)
    parser.add_argument("repository", nargs="?", metavar="FQRN", help="repository name")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name, path = repository_and_path(options.repository)
    try:
        session = open_transaction(environment, environment.resolve(name), path, retry_timeout=options.retry_timeout)
    except tuple(_EXIT_CODES) as error:
        print(f"cvmfs_server transaction: {error}", file=sys.stderr)
        return _EXIT_CODES[type(error)]
    if options.json:
        output.print_json(session.public())
    else:
        print(f"Opened transaction {session.id} on {session.repository}, revision {session.revision}.")
    return 0
