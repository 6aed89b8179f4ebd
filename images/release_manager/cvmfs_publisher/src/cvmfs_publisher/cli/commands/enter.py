# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a shell, or a command, that can write to the repository at /cvmfs/FQRN.

Nobody else sees what it writes, and all of that is dropped when it ends. With -t it can be published before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from ...mount.system import may_mount
from ...operations.enter import enter
from ...operations.environment import Environment
from ..arguments import add_refused

_CALLER = "CVMFS_ENTER_CALLER"
"""An environment variable: who called the command, as user and group."""

_REFUSED = {
    ("-w", "--stratum0"): "the repository has to be configured, with CVMFS_STRATUM0",
    ("-x", "--repo-config"): "set CVMFS_CONFIG_DIR",
    ("-c", "--cvmfs2"): "it does not need CernVM-FS's client",
    ("-C", "--cvmfs-config"): "it does not need CernVM-FS's client",
    ("-k", "--keep-session"): "publish what is to be kept, with -t",
    ("-l", "--keep-logs"): "all messages are on standard error",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-r", "--root", action="store_true", help="let the command think that it is root's")
    parser.add_argument(
        "-t", "--transaction", action="store_true", help="open a transaction, which the command can publish; implies -r"
    )
    for flags, reason in _REFUSED.items():
        for flag in flags:
            add_refused(parser, flag, reason)
    parser.add_argument("repository", metavar="FQRN", help="repository name")
    parser.add_argument("arguments", nargs="*", metavar="COMMAND", help="behind --; by default the user's shell")


def run(options: argparse.Namespace) -> int:
    if not may_mount():
        return _in_user_namespace()
    environment = Environment.of_process()
    command = options.arguments or [os.environ.get("SHELL") or "/bin/sh"]
    name = environment.resolve(options.repository)
    caller = os.environ.pop(_CALLER, "")
    user = None
    if caller and not (options.root or options.transaction):
        uid, _, gid = caller.partition(":")
        user = int(uid), int(gid)
    return enter(environment, name, command, user=user, transaction=options.transaction)


def _in_user_namespace() -> int:
    """Begin anew where this process's user may mount. Only a process with a single thread could go there itself."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "--"]
    environ = {**os.environ, _CALLER: f"{os.geteuid()}:{os.getegid()}"}
    return subprocess.run([*namespace, *sys.argv], env=environ, check=False).returncode
