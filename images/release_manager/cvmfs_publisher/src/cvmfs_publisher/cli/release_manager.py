# SPDX-License-Identifier: GPL-3.0-or-later
"""``release-manager``: the container's entry point.

With arguments it becomes that command. Without, it stays for as long as the container lives and keeps the leases of the
transactions that were opened in the container alive; when it is told to end, it releases them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ..errors import PublisherError
from ..operations.environment import Environment
from ..operations.transaction import abort, open_sessions, renew

_RENEW_EVERY = 30.0  # seconds; a lease lives several times as long


def main() -> None:
    """Run the command that the arguments name, or stay and renew leases until SIGTERM or SIGINT."""
    if len(sys.argv) > 1:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
    leaving = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leaving.set())
    environment = Environment.of_process()
    while not leaving.wait(_RENEW_EVERY):
        for session in open_sessions(environment):
            try:
                renew(environment, session)
            except PublisherError as error:
                # Not fatal here: the publish itself finds out before it commits.
                print(f"release-manager: the lease on {session.repository} was not renewed: {error}", file=sys.stderr)
    for session in open_sessions(environment):
        try:
            abort(environment, session.repository, transaction_id=session.id)
        except PublisherError as error:
            print(f"release-manager: the lease on {session.repository} was not released: {error}", file=sys.stderr)
