#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_copy
short_description: Copy a CernVM-FS repository between its bucket and another storage
version_added: 0.2.0
description:
  - Copies a repository as it is, from a directory or another bucket to its own bucket, or from there to a directory.
    Tags, old revisions, the whitelist and all signatures stay what they are. Nothing is signed, and no private key is
    needed.
  - Every object is compared with its name on the way. Objects that are there already are not copied again, so that a
    copy that broke off goes on, and one that is repeated brings over what is new.
  - The repository may be used and published to while it is copied. The manifest comes last, so that at every moment
    the destination has no repository, or a whole one. A repository that was published to in the destination is left
    alone.
  - What was signed later in the destination stays, except for a manifest that names a root catalog, tag database,
    certificate or description which is lost. A repository whose key was replaced there is left alone, unless it is in
    the same revision.
  - Copying runs in a container that is gone afterwards. While it runs, a playbook shows how far it is.
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
    details:
      - It compares the lists of both sides' objects.
  diff_mode:
    support: full
  upstream_engine:
    support: full
    details:
      - The image's native publisher does it, and needs no CernVM-FS at all.
options:
  source:
    description:
      - A directory of the host with the repository, as CernVM-FS's own tools keep it in C(/srv/cvmfs).
    type: path
  source_s3_config:
    description:
      - The content of an C(s3.conf) for the bucket from which to copy, in which the repository is below its name.
      - It is on the host only while this lasts.
    type: str
  source_s3_prefix:
    description:
      - Where the repository is in that bucket, if that is not its name, such as V(cvmfs/software.example.org). It is
        what CernVM-FS's own tools have before the C(@) in C(CVMFS_UPSTREAM_STORAGE).
    type: str
  destination:
    description:
      - A directory of the host to copy to. It must be there, and belong to the user who runs the container.
      - In O(destination), objects are files as CernVM-FS's own tools keep them.
    type: path
  overwrite:
    description:
      - Whether to replace a repository that is no older state of the one that is copied. What was published there is
        lost.
      - If its key was replaced, the whitelist stays, and clients refuse what was copied until it is signed with the new
        key, as M(cvmfs.publishing.cvmfs_whitelist) does with O(cvmfs.publishing.cvmfs_whitelist#module:revoke) and
        O(cvmfs.publishing.cvmfs_whitelist#module:sign_manifest).
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_check
"""

EXAMPLES = r"""
- name: Bring a repository from local storage to its bucket
  cvmfs.publishing.cvmfs_copy:
    repository: software.example.org
    source: /srv/cvmfs/software.example.org

- name: Bring it from a bucket in which CernVM-FS's own tools have put it below a path
  cvmfs.publishing.cvmfs_copy:
    repository: software.example.org
    source_s3_config: "{{ lookup('ansible.builtin.file', 'old.s3.conf') }}"
    source_s3_prefix: cvmfs/software.example.org

- name: Take it back
  cvmfs.publishing.cvmfs_copy:
    repository: software.example.org
    destination: /srv/cvmfs/software.example.org
"""

RETURN = r"""
revision:
  description: The newest revision of the source.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: int
root_hash:
  description: The hash of its root catalog.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: str
objects:
  description: How many objects were copied, or would be.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: int
bytes:
  description: Their size.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: int
present:
  description: How many objects were in the destination already.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: int
"""

import contextlib
import os

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    ARGUMENT_SPEC,
    DESTINATION_DIR,
    OTHER_S3_CONFIG,
    SOURCE_DIR,
    NotConfigured,
    ReleaseManager,
    source_path,
)

SIDES = ("source", "source_s3_config", "destination")


class Copy(PublishingModule):
    argument_spec = dict(
        source=dict(type="path"),
        source_s3_config=dict(type="str", no_log=True),
        source_s3_prefix=dict(type="str"),
        destination=dict(type="path"),
        overwrite=dict(type="bool", default=False),
        **ARGUMENT_SPEC,
    )
    module_options = dict(
        mutually_exclusive=[SIDES], required_one_of=[SIDES], required_by={"source_s3_prefix": "source_s3_config"}
    )

    def execute(self):
        try:
            release_manager = ReleaseManager.of_params(self.params)
        except NotConfigured:
            if not self.check_mode:
                raise
            self.changed = True  # the role was to prepare this host, which it did not in check mode
            return
        with contextlib.ExitStack() as stack:
            server, sides = self._prepare(release_manager, stack)
            report = server.copy(**sides, overwrite=self.params["overwrite"], dry_run=self.check_mode)
        for warning in report.get("warnings", ()):
            self.module.warn(warning)
        self.changed = report["changed"]
        self.result.update({key: report[key] for key in ("revision", "root_hash", "objects", "bytes", "present")})
        self.before = {"objects": report["present"]}
        self.after = {"objects": report["present"] + report["objects"], "revision": report["revision"]}

    def _prepare(self, release_manager, stack):
        """Return ``cvmfs_server`` in a container that sees the other storage, and what that is called there."""
        if self.params["source"]:
            path = _directory(self.params["source"])
            return release_manager.server_once(sources=[path]), {"source": _local(SOURCE_DIR + path)}
        if self.params["destination"]:
            path = _directory(self.params["destination"])
            return release_manager.server_once(destinations=[path]), {"destination": _local(DESTINATION_DIR + path)}
        lent = stack.enter_context(release_manager.other_bucket(self.params["source_s3_config"], warn=self.module.warn))
        prefix = self.params["source_s3_prefix"] or release_manager.fqrn
        storage = f"S3,/tmp,{prefix}@/etc/cvmfs/{OTHER_S3_CONFIG}"
        return release_manager.server_once(extra_secrets=lent), {"source": storage}


def _directory(path):
    path = source_path(path)
    if not os.path.isdir(path) or "," in path:
        raise PublishingError(f"{path} is no directory that CVMFS_UPSTREAM_STORAGE can name", remedy="Give another.")
    return path


def _local(path):
    return f"local,{path}/data/txn,{path}"


def main():
    Copy.main()


if __name__ == "__main__":
    main()
