# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount the repositories of open interactive transactions again, as after a restart.

Nothing of what was written in them is lost. Outside transactions, nothing is mounted.
"""

from __future__ import annotations

import argparse

from ...errors import UsageError
from ...operations.environment import Environment
from ...operations.interactive import interactive_sessions, mount_again
from ..arguments import add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="all repositories that are configured here")
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if options.all and options.repository is not None:
        raise UsageError("-a means all repositories", remedy="Either name one, or use -a")
    names = interactive_sessions(environment) if options.all else [environment.resolve(options.repository)]
    for name in names:
        session = mount_again(environment, name)
        print(f"{name} can be edited at {session.mount_point}.")
    return 0
