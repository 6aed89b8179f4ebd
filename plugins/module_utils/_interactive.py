# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transactions that people work in: a shell with the repository writable, and commands. Private to the collection.

The container keeps the lease, the scratch area and, with dtach, the shell, so that nothing depends on the connection of
the person. Only leaving the shell asks what is to become of the transaction.
"""

from __future__ import annotations

import os
import sys

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    SOURCE_DIR,
    Occupied,
    ReleaseManager,
)

# On the scratch volume, as the container's root file system is read-only.
_HOME = "/var/spool/cvmfs/home"
# Scripts of the container's shell; they are constants, and arguments stay arguments.
_RUN = 'mkdir -p "$HOME" && exec "$@"'
_SHELL = (
    'mkdir -p "$HOME"; command -v dtach >/dev/null || exec bash -l; '
    # dtach waits for all that have its terminal, so who leaves jobs behind would never get out.
    """exec dtach -A "$HOME/.shell" -E -z -r ctrl_l sh -c 'bash -l; kill $PPID'"""
)
_QUESTION = "publish [TAG], keep the transaction open, abort, diff, or back to the shell? "
_ANSWERS = ("publish", "keep", "abort", "diff", "shell")


class Workplace:
    """The transaction of a person in the container of `release_manager`. `say` and `ask` are the person's terminal."""

    def __init__(self, release_manager: ReleaseManager, *, say, ask):
        self._release_manager = release_manager
        self._fqrn = release_manager.fqrn
        self._say = say
        self._ask = ask
        self._transaction = None

    def open(self, *, path="", sources=()):
        """Open an interactive transaction in a container that sees `sources`. PublishingError."""
        try:
            self._transaction = self._release_manager.begin(sources=sources, is_interactive=True, path=path)
        except Occupied as error:
            error.remedy = (
                f"Go on with it: cvmfs-release-manager attach {self._fqrn}; or drop it: cvmfs-release-manager abort "
                f"{self._fqrn}. If it is not yours, ask first."
            )
            raise

    def attach(self):
        """Go on with the interactive transaction that is open, also after the container has ended. PublishingError."""
        current = self._release_manager.resume()
        if current is None:
            raise PublishingError(
                f"No transaction on {self._fqrn} is open on this host",
                remedy=f"Open one: cvmfs-release-manager shell {self._fqrn}",
            )
        if not current["mount_point"]:
            raise PublishingError(
                f"Transaction {current['id']} on {self._fqrn} is not interactive: a playbook works in it",
                remedy=f"Let it end, or drop it: cvmfs-release-manager abort {self._fqrn}",
            )
        self._transaction = current

    def shell(self):
        """Have a shell in the transaction until the person has decided what becomes of it."""
        where = self._transaction["path"]
        self._say(
            f"Transaction {self._transaction['id']} on {self._fqrn} is open, from revision "
            f"{self._transaction['revision']}. {self._transaction['mount_point']}{'/' + where if where else ''} is "
            f"writable.\nLeave with exit or Ctrl-D, and say then whether to publish. If the connection drops: "
            f"cvmfs-release-manager attach {self._fqrn}"
        )
        is_decided = False
        while not is_decided:
            self._exec(["sh", "-c", _SHELL], self._transaction["mount_point"])
            is_decided = not self._is_open() or self._decide()

    def run(self, command, *, directory=None, tag=None, description=None):
        """Run `command` in the transaction; publish if it succeeds, abort if not. Return the exit code of what failed.

        If it is only publishing that fails, the work stays for the person at the terminal, if there is one: others,
        such as pipelines, would find an open transaction in their way and nobody to go on with it.
        """
        is_kept = False
        try:
            place = SOURCE_DIR + directory if directory else self._transaction["mount_point"]
            code = self._exec(["sh", "-c", _RUN, "sh", *command], place)
            if code != 0:
                self._say(f"{command[0]} ended with exit code {code}: the transaction is aborted.")
                return code
            code = self._publish(tag, description)
            is_kept = code != 0 and sys.stdin.isatty()
            if is_kept:
                self._say_kept()
            return code
        finally:
            if not is_kept:
                self._leave()

    def _exec(self, command, directory):
        return self._release_manager.engine.exec_attached(
            name=self._release_manager.template.name,
            command=command,
            directory=directory,
            environment={"HOME": _HOME, "TERM": os.environ.get("TERM", "dumb")},
        )

    def _is_open(self):
        with self._release_manager.lock():
            look = self._release_manager.look()
        if look.transaction is not None and look.transaction["id"] == self._transaction["id"]:
            return True
        if look.was_interrupted:
            self._say(
                f"The container of a transaction on {self._fqrn} has been interrupted. Go on with it: "
                f"cvmfs-release-manager attach {self._fqrn}"
            )
            return False
        self._say(f"Transaction {self._transaction['id']} on {self._fqrn} has ended.")
        self._leave()
        return False

    def _decide(self):
        """Ask what is to become of the transaction, and do it. Return False to go back to the shell."""
        self._summarize()
        while True:
            answer, _space, tag = self._ask(_QUESTION).partition(" ")
            # Who gives no answer, or cannot any more, keeps what there is.
            word = next(word for word in (*_ANSWERS, answer) if word.startswith(answer.lower() or "keep"))
            if word == "keep":
                self._say_kept()
                return True
            if word == "shell":
                return False
            if word == "diff":
                self._exec(["cvmfs_server", "diff", "--worktree", self._fqrn], "/")
            elif (word == "publish" and self._publish(tag.strip()) == 0) or (word == "abort" and self._is_sure()):
                self._leave()
                return True

    def _say_kept(self):
        self._say(f"The transaction stays open. Go on with it: cvmfs-release-manager attach {self._fqrn}")

    def _summarize(self):
        try:
            changes = self._release_manager.server().worktree_changes()
            self._say(f"{changes['added']} added, {changes['modified']} changed, {changes['removed']} removed.")
        except PublishingError as error:
            self._say(str(error))

    def _publish(self, tag=None, description=None):
        command = ["cvmfs_server", "publish", "--transaction", self._transaction["id"]]
        command += ["-a", tag] if tag else []
        command += ["-m", description] if description else []
        return self._exec([*command, self._fqrn], "/")

    def _is_sure(self):
        return self._ask("All that was changed in the transaction will be lost. Sure (yes, no)? ") == "yes"

    def _leave(self):
        """Remove the container, which aborts the transaction if it is still open."""
        self._release_manager.leave(transaction_id=self._transaction["id"])
