#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_repository
short_description: Create a CernVM-FS repository in its bucket
version_added: 0.1.0
description:
  - Ensures that a repository exists in its S3 bucket, created with the keys that are given and with the options of its
    C(server.conf).
  - A repository that exists is never overwritten. It is verified to be signed with these keys, and anything else is
    refused.
  - Creation runs in a container that is gone afterwards.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.release_manager
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  masterkey:
    description:
      - The master key of the repository, in PEM form.
      - It is needed when the repository is to be created, and is on the host only while this lasts.
    type: str
  owner:
    description:
      - The user that owns the root directory of the repository, by name or number as known in the container.
      - By default it is the container's root.
    type: str
seealso:
  - module: cvmfs.publishing.cvmfs_keys
  - module: cvmfs.publishing.cvmfs_whitelist
"""

EXAMPLES = r"""
- name: Have the repository
  cvmfs.publishing.cvmfs_repository:
    repository: software.example.org
    masterkey: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.masterkey', rstrip=false) }}"
  no_log: true
  vars:
    ansible_pipelining: true
"""

RETURN = r"""
created:
  description: Whether the repository was created, or would be.
  returned: success
  type: bool
url:
  description: Where everybody can read the repository.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: str
  sample: https://s3.example.org/software/software.example.org
revision:
  description: The newest revision.
  returned: the repository exists
  type: int
root_hash:
  description: The hash of the root catalog.
  returned: the repository exists
  type: str
whitelist_expires:
  description: Until when clients trust the repository, if its whitelist is not signed again.
  returned: the repository exists
  type: str
  sample: "2026-12-24T18:00:00+00:00"
whitelist_expired:
  description: Whether clients already refuse it.
  returned: the repository exists
  type: bool
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import ObjectMissing
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import VerificationError, WhitelistExpired
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    ARGUMENT_SPEC,
    KEYS_DIR,
    S3_DIR,
    NotConfigured,
    ReleaseManager,
)


class RepositoryModule(PublishingModule):
    argument_spec = dict(
        masterkey=dict(type="str", no_log=True),
        owner=dict(type="str"),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        try:
            self.release_manager = ReleaseManager.of_params(self.params)
        except NotConfigured:
            if not self.check_mode:
                raise
            self._predict_all()
            return
        self.result["url"] = self.release_manager.stratum0_url
        exists = self._look()
        self.result["created"] = not exists
        self.before = {"state": "present" if exists else "absent"}
        self.after = {"state": "present"}
        if not exists:
            self._create()

    def _predict_all(self):
        """Predict a new repository.

        The role was to prepare this host for it, which it did not in check mode, so there is nothing to look at yet.
        """
        self.result["created"] = self.changed = True
        self.before = {"state": "absent"}
        self.after = {"state": "present"}

    def _look(self):
        """Return whether the repository exists, and put what it says into the result.

        PublishingError if it is not ours.
        """
        published = self.release_manager.published()
        expired = False
        try:
            manifest = published.manifest()
        except ObjectMissing:
            return False
        try:
            published.revision()
        except WhitelistExpired:
            expired = True
        except VerificationError as error:
            raise PublishingError(
                f"{self.release_manager.stratum0_url} has a repository that is not of these keys: {error.message}",
                remedy="It is left as it is. Use its own keys, or another bucket or name.",
            ) from None
        self.result.update(
            revision=manifest.revision,
            root_hash=manifest.root_hash,
            whitelist_expires=published.whitelist().expires.isoformat(),
            whitelist_expired=expired,
        )
        return True

    @trigger_change
    @skip_if_check_mode
    def _create(self):
        fqrn = self.release_manager.fqrn
        if not self.params["masterkey"]:
            raise PublishingError(f"Repository {fqrn} does not exist, and cannot be created without masterkey")
        settings = self.release_manager.settings()
        with self.release_manager.masterkey(self.params["masterkey"], warn=self.module.warn) as secret:
            server = self.release_manager.server_once(extra_secrets=secret, without_configuration=True)
            server.mkfs(
                stratum0_url=self.release_manager.stratum0_url.rpartition("/")[0],
                s3_config=f"{S3_DIR}/{fqrn}.conf",
                keychain=KEYS_DIR,
                owner=self.params["owner"],
                hash_algorithm=settings.get("CVMFS_HASH_ALGORITHM"),
                compression=settings.get("CVMFS_COMPRESSION_ALGORITHM"),
                auto_tag=settings.get("CVMFS_AUTO_TAG") != "false",
                auto_tag_timespan=settings.get("CVMFS_AUTO_TAG_TIMESPAN"),
                garbage_collectable=settings.get("CVMFS_GARBAGE_COLLECTION") == "true",
            )
        if not self._look():
            raise PublishingError(
                f"Repository {fqrn} was created, but {self.release_manager.stratum0_url} does not show it",
                remedy="Is the URL the one of the bucket in s3.conf?",
            )


def main():
    RepositoryModule.main()


if __name__ == "__main__":
    main()
