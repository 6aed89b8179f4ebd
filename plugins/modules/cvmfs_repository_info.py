#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_repository_info
short_description: Say what a CernVM-FS repository is like, as everybody can see it
version_added: 0.1.0
description:
  - Reads manifest, whitelist, tags and counters of a repository over anonymous HTTP. It works on any host, and with
    any repository.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.reader
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.info
  - cvmfs.publishing.attributes.action_group
options:
  certificate:
    description:
      - A certificate in PEM form, of which the result then says whether the whitelist lists it.
    version_added: 0.2.0
    type: str
seealso:
  - module: cvmfs.publishing.cvmfs_verify
"""

EXAMPLES = r"""
- name: Look at a repository
  cvmfs.publishing.cvmfs_repository_info:
    url: http://cvmfs-stratum-one.example.org/cvmfs/software.example.org
    public_keys: ["{{ lookup('ansible.builtin.file', 'software.example.org.pub') }}"]
  register: software

- name: Warn before the whitelist expires
  ansible.builtin.assert:
    that: software.whitelist.days_left > 7
"""

RETURN = r"""
repository:
  description: The name of the repository.
  returned: success
  type: str
url:
  description: The URL of the repository.
  returned: success
  type: str
revision:
  description: The newest revision.
  returned: success
  type: int
root_hash:
  description: The hash of the root catalog.
  returned: success
  type: str
published:
  description: When the revision was published.
  returned: success
  type: str
  sample: "2026-11-24T18:00:00+00:00"
verified:
  description: Whether the signatures were verified.
  returned: success
  type: bool
whitelist:
  description: The whitelist.
  returned: success
  type: dict
  contains:
    expires:
      description: Until when it is valid.
      type: str
    days_left:
      description: How many days these are; negative if it has expired.
      type: float
    expired:
      description: Whether clients refuse the repository.
      type: bool
    fingerprints:
      description: The hashes of the certificates that may sign, by the repository's hash algorithm.
      type: list
      elements: str
    lists_certificate:
      description: Whether O(certificate) is one of them; null if none was given.
      type: bool
tags:
  description: The named snapshots, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
    revision:
      description: The number of the revision.
      type: int
    root_hash:
      description: The hash of the root catalog.
      type: str
    timestamp:
      description: When the revision was published, in seconds since the epoch.
      type: int
    size:
      description: The size of the root catalog in bytes.
      type: int
    description:
      description: The description.
      type: str
transaction:
  description: The transaction that is open, on whichever host, or null.
  returned: success
  type: dict
  contains:
    id:
      description: What it is known by.
      type: str
    holder:
      description: Who has opened it.
      type: str
    opened:
      description: When.
      type: str
    expires:
      description: When it ends if its release manager is gone.
      type: str
counters:
  description: What the newest revision consists of, with all nested catalogs.
  returned: success
  type: dict
  contains:
    regular:
      description: Regular files.
      type: int
    symlink:
      description: Symbolic links.
      type: int
    dir:
      description: Directories.
      type: int
    nested:
      description: Nested catalogs.
      type: int
    file_size:
      description: Bytes in regular files.
      type: int
ttl:
  description: For how many seconds clients take the revision for the newest.
  returned: success
  type: int
garbage_collectable:
  description: Whether old revisions can be removed.
  returned: success
  type: bool
"""

import contextlib
import datetime

from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import WhitelistExpired
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import Repository, certificate_der, timestamp
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    READER_ARGUMENT_SPEC,
    reader_options,
)


class RepositoryInfo(PublishingModule):
    argument_spec = dict(certificate=dict(type="str"), **READER_ARGUMENT_SPEC)
    module_options = dict(required_one_of=[("url", "repository")])

    def execute(self):
        options = reader_options(self.params)
        repository = Repository(**options)
        with contextlib.suppress(WhitelistExpired):  # that is one of the facts
            repository.revision()
        manifest, whitelist = repository.manifest(), repository.whitelist()
        certificate = self.params["certificate"]
        left = whitelist.expires - datetime.datetime.now(datetime.timezone.utc)
        self.result.update(
            repository=manifest.repository,
            url=options["url"],
            revision=manifest.revision,
            root_hash=manifest.root_hash,
            published=timestamp(manifest.published),
            verified=bool(options["public_keys"]),
            ttl=manifest.ttl,
            garbage_collectable=manifest.garbage_collectable,
            tags=repository.tags(),
            transaction=_transaction(repository.lease()),
            counters=repository.totals(),
            whitelist=dict(
                expires=whitelist.expires.isoformat(),
                days_left=round(left / datetime.timedelta(days=1), 2),
                expired=whitelist.is_expired(),
                fingerprints=list(whitelist.fingerprints),
                lists_certificate=whitelist.lists(certificate_der(certificate.encode())) if certificate else None,
            ),
        )


def _transaction(lease):
    if lease is None:
        return None
    times = dict(opened=timestamp(lease.acquired), expires=timestamp(lease.expires))
    return dict(id=lease.transaction, holder=lease.holder, **times)


def main():
    RepositoryInfo.main()


if __name__ == "__main__":
    main()
