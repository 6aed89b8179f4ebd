#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_transaction
short_description: Open or abort a transaction on a CernVM-FS repository
version_added: 0.1.0
description:
  - Opens a transaction in a release-manager container, which is started for it, or aborts one.
  - A transaction is known by its ID. One that somebody else has opened is never joined, published or aborted.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.release_manager
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
  - cvmfs.publishing.attributes.upstream_engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  upstream_engine:
    support: partial
    details:
      - CernVM-FS 2.8.0 or newer opens and aborts transactions, and 2.8.1 or newer says what was changed in them.
      - A transaction is on the whole repository, which is mounted in the container in any case.
options:
  state:
    description:
      - V(open) opens a transaction. If the one with O(id) is open already, it is left as it is.
      - V(aborted) drops the transaction with O(id), and removes its container. A lasting one is aborted on any host.
        One that was edited in place and then interrupted, as by a power cut, is left alone with a warning unless its
        lease still has that O(id).
    type: str
    choices: [open, aborted]
    default: open
  id:
    description:
      - The ID of a transaction that was opened before.
    type: str
  sources:
    description:
      - Directories and tar files of the host that the transaction's container sees, so that they can be published.
    type: list
    elements: path
    default: []
  interactive:
    description:
      - Mounts the repository in the container at C(/cvmfs/<repository>), where it can be edited in place until it is
        published, for example by C(podman exec -it cvmfs-<repository> bash).
      - The container gets C(/dev/fuse) and the capability SYS_ADMIN, which rootless podman confines to the user's own
        namespace. Transactions that only publish directories and tar files need neither.
    version_added: 0.2.0
    type: bool
    default: false
  lasting:
    description:
      - Keeps everybody from publishing, on all hosts, whatever becomes of this one, until the transaction is aborted.
        There is no container, and nothing can be published in it. It is for a repository that was moved elsewhere.
      - If there is such a transaction already, it is left as it is.
    version_added: 0.2.0
    type: bool
    default: false
  retry_timeout:
    description:
      - For how many seconds to wait for the end of somebody else's transaction, on this host or another. 0 is for
        ever.
      - By default it is an error if there is one.
    type: int
  force:
    description:
      - With O(state=aborted), drops whichever transaction is open, also one that was opened on another host.
      - A garbage collection and the like are ended as well. Nobody can publish for up to four minutes then, since the
        storage may still carry out their deletions; a warning says how long.
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_publish
"""

EXAMPLES = r"""
- name: Open a transaction
  cvmfs.publishing.cvmfs_transaction:
    repository: software.example.org
    sources: [/build/release]
  register: opened

- name: Open a transaction in which the repository can be edited in place
  cvmfs.publishing.cvmfs_transaction:
    repository: software.example.org
    interactive: true
  register: opened

- name: Abort it again
  cvmfs.publishing.cvmfs_transaction:
    repository: software.example.org
    state: aborted
    id: "{{ opened.transaction.id }}"

- name: Let nobody publish any more, since the repository was moved
  cvmfs.publishing.cvmfs_transaction:
    repository: software.example.org
    lasting: true
"""

RETURN = r"""
transaction:
  description: The open transaction.
  returned: O(state=open), but not in check mode
  type: dict
  contains:
    id:
      description: What it is known by.
      type: str
    mount_point:
      description: Where in the container the repository can be edited in place; null if it cannot.
      type: str
  sample:
    id: 5e0fd6c1-4a3f-4a39-9c56-0a7cf0cbbd4b
    mount_point: /cvmfs/software.example.org
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    ARGUMENT_SPEC,
    ReleaseManager,
    source_path,
)


class Transaction(PublishingModule):
    argument_spec = dict(
        state=dict(type="str", choices=["open", "aborted"], default="open"),
        id=dict(type="str"),
        sources=dict(type="list", elements="path", default=[]),
        interactive=dict(type="bool", default=False),
        lasting=dict(type="bool", default=False),
        retry_timeout=dict(type="int"),
        force=dict(type="bool", default=False),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        if self.params["state"] == "aborted" and not self.params["id"] and not self.params["force"]:
            raise PublishingError(
                "Which transaction to abort is not said", remedy="Give its id, or force: true for whichever is open."
            )
        if self.params["state"] == "open" and self.params["lasting"]:
            self._ensure_lasting()
        elif self.params["state"] == "open":
            self._ensure_open()
        else:
            with self.release_manager.lock():
                self._ensure_aborted()

    def _look(self):
        current = self.release_manager.open_transaction()
        self.before = {"transaction": current}
        return current

    def _ensure_open(self):
        with self.release_manager.lock():
            current = self._look()
        if current is not None and current["id"] == self.params["id"]:
            self.result["transaction"] = current
        else:
            if self.params["retry_timeout"] is None:
                self.release_manager.refuse_strangers(current)
            self._open()
        self.after = {"transaction": self.result.get("transaction", "open")}

    def _ensure_lasting(self):
        lease = self.release_manager.published().lease()
        if lease is not None and lease.is_lasting:
            self.before = {"transaction": {"id": lease.transaction, "mount_point": None}}
            self.result.update(self.before)
        else:
            with self.release_manager.lock():
                self.release_manager.refuse_strangers(self._look())
            self._open_lasting()
        self.after = {"transaction": self.result.get("transaction", "open")}

    @trigger_change
    @skip_if_check_mode
    def _open_lasting(self):
        self._in_turn(self.release_manager.server_once().lasting_transaction)

    @trigger_change
    @skip_if_check_mode
    def _open(self):
        sources = [source_path(path) for path in self.params["sources"]]
        self._in_turn(lambda: self.release_manager.begin(sources=sources, is_interactive=self.params["interactive"]))

    def _in_turn(self, begin):
        self.result["transaction"] = self.release_manager.in_turn(begin, timeout=self.params["retry_timeout"])

    def _ensure_aborted(self):
        current = self._look()
        self.after = {"transaction": None}
        if current is not None and (self.params["force"] or current["id"] == self.params["id"]):
            self._abort(current)
        elif current is not None:
            self.after = self.before  # somebody else's
        else:
            if self.params["force"]:
                self._ensure_broken(self.release_manager.published().lease())
            if self.release_manager.has_container():
                self._clear()
            if not self.params["force"]:
                self._tell_of_lease()

    @trigger_change
    @skip_if_check_mode
    def _abort(self, current):
        try:
            # Whoever uses what it has mounted loses that in a moment anyway
            self.release_manager.server().abort(transaction_id=current["id"], force=True)
        finally:
            self.release_manager.remove_container()

    def _clear(self):
        """Remove a container in which nothing is open, unless somebody may go on in it."""
        work = None if self.params["force"] else self.release_manager.interrupted_work(but=self.params["id"])
        if work:
            self.module.warn(work)
        else:
            self._remove_container()

    def _tell_of_lease(self):
        """Warn if the transaction has lost its container, which could not give the lease back; or end a lasting one."""
        lease = self.release_manager.published().lease()
        if lease is None or lease.transaction != self.params["id"]:
            return
        if lease.is_lasting:
            self._break_lease()
        else:
            self.module.warn(self.release_manager.left_lease(lease))

    def _ensure_broken(self, lease):
        if lease is not None and lease.is_broken:
            self.module.warn(self.release_manager.broken_lease(lease))
        elif lease is not None:
            self._break_lease()

    @trigger_change
    @skip_if_check_mode
    def _break_lease(self):
        """Abort a transaction of another host, or of a container that is gone."""
        for warning in self.release_manager.server_once().abort(force=True).get("warnings", ()):
            self.module.warn(warning)

    @trigger_change
    @skip_if_check_mode
    def _remove_container(self):
        self.release_manager.remove_container()


def main():
    Transaction.main()


if __name__ == "__main__":
    main()
