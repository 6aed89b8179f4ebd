#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_repository
short_description: Create, change or remove a CernVM-FS repository in its bucket
version_added: 0.1.0
description:
  - Ensures that a repository exists in its S3 bucket, created with the keys that are given and with the options of its
    C(server.conf). A time to live among them takes a second revision.
  - A repository that exists is never overwritten. It is verified to be signed with these keys, and anything else is
    refused.
  - Where C(CVMFS_REPOSITORY_TTL) or C(CVMFS_GARBAGE_COLLECTION) of C(server.conf) are others than its manifest says, a
    revision is published that has nothing else new. Other settings need no revision of their own. If a transaction is
    open, the change is left to its publish, with a warning.
  - Everything runs in a container that is gone afterwards.
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
    support: full
    details:
      - The image's native publisher does it, and needs no CernVM-FS at all.
options:
  state:
    description:
      - V(present) ensures that the repository exists, and is as C(server.conf) says.
      - V(absent) deletes all that it has in the bucket, for good. The keys, the bucket and the configuration of the
        host stay. No transaction may be open. It needs O(confirm).
    version_added: 0.2.0
    type: str
    choices: [present, absent]
    default: present
  confirm:
    description:
      - The name of the repository once more, for O(state=absent).
    version_added: 0.2.0
    type: str
  masterkey:
    description:
      - The master key of the repository, in PEM form.
      - It is needed when the repository is to be created. It stays on the controller, which signs a whitelist for
        O(certificate) with it, and needs the Python package cryptography for that.
    type: str
  certificate:
    description:
      - The certificate of the repository key, in PEM form. It is needed when the repository is to be created.
    version_added: 0.2.0
    type: str
  whitelist:
    description:
      - The signed whitelist of a new repository, in Base64. The action plugin fills it in.
    version_added: 0.2.0
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
    certificate: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.crt') }}"

- name: Remove a repository for good
  cvmfs.publishing.cvmfs_repository:
    repository: old.example.org
    state: absent
    confirm: old.example.org
"""

RETURN = r"""
created:
  description: Whether the repository was created, or would be.
  returned: O(state=present)
  type: bool
removed_objects:
  description: How many objects were deleted.
  returned: O(state=absent), but not in check mode
  type: int
url:
  description: Where everybody can read the repository.
  returned: success, unless check mode predicts that the host is to be prepared first
  type: str
  sample: https://s3.example.org/software/software.example.org
revision:
  description: The newest revision.
  returned: the repository exists, or existed
  type: int
root_hash:
  description: The hash of the root catalog.
  returned: the repository exists, or existed
  type: str
whitelist_expires:
  description: Until when clients trust the repository, if its whitelist is not signed again.
  returned: the repository exists, or existed
  type: str
  sample: "2026-12-24T18:00:00+00:00"
whitelist_expired:
  description: Whether clients already refuse it.
  returned: the repository exists, or existed
  type: bool
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils import _repository
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
    NotConfigured,
    ReleaseManager,
)


class RepositoryModule(PublishingModule):
    argument_spec = dict(
        state=dict(type="str", choices=["present", "absent"], default="present"),
        confirm=dict(type="str"),
        masterkey=dict(type="str", no_log=True),
        certificate=dict(type="str"),
        whitelist=dict(type="str"),
        owner=dict(type="str"),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        is_wanted = self.params["state"] == "present"
        if not is_wanted and self.params["confirm"] != self.params["repository"]:
            raise PublishingError(
                f"Repository {self.params['repository']} would be removed for good",
                remedy="If that is meant, give its name once more in confirm.",
            )
        try:
            self.release_manager = ReleaseManager.of_params(self.params)
        except NotConfigured:
            if not (self.check_mode and is_wanted):
                raise
            self._predict_all()
            return
        self.result["url"] = self.release_manager.stratum0_url
        manifest = self._look()
        self.before = _describe(manifest)
        if is_wanted:
            self._ensure_present(manifest)
        else:
            self._ensure_absent(manifest)

    def _predict_all(self):
        """Predict a new repository.

        The role was to prepare this host for it, which it did not in check mode, so there is nothing to look at yet.
        """
        self.result["created"] = self.changed = True
        self.before = {"state": "absent"}
        self.after = {"state": "present"}

    def _look(self):
        """Return the manifest, or None if there is no repository, and put what it says into the result.

        PublishingError if it is not ours.
        """
        published = self.release_manager.published()
        expired = False
        try:
            manifest = published.manifest()
        except ObjectMissing:
            return None
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
        return manifest

    def _ensure_present(self, manifest):
        self.result["created"] = manifest is None
        self.after = {**_describe(manifest), "state": "present", **_repository.wanted_properties(self.release_manager)}
        if manifest is None and self.params["whitelist"] is None:
            self._ask_for_whitelist()
        elif manifest is None:
            self._create()
        elif self.after != self.before:
            if self.release_manager.is_busy():
                self.after = self.before
                self.module.warn(
                    f"A transaction is open on {self.release_manager.fqrn}: what was changed in server.conf holds from "
                    "the next publish on."
                )
            else:
                self._change()

    def _ensure_absent(self, manifest):
        self.after = _describe(None)
        if manifest is not None:
            self._remove()
        elif not self.check_mode:
            self.result["removed_objects"] = 0

    @trigger_change
    @skip_if_check_mode
    def _change(self):
        report = _repository.publish_properties(self.release_manager)
        self.result.update(revision=report["revision"], root_hash=report["root_hash"])

    @trigger_change
    @skip_if_check_mode
    def _remove(self):
        self.result["removed_objects"] = _repository.remove(self.release_manager, warn=self.module.warn)

    @trigger_change
    def _ask_for_whitelist(self):
        """Leave it to the action plugin, on the controller, to sign one, and to call again."""
        self.result["to_sign"] = self.release_manager.whitelist_to_sign()

    @trigger_change
    @skip_if_check_mode
    def _create(self):
        _repository.create(self.release_manager, whitelist=self.params["whitelist"], owner=self.params["owner"])
        self._look()


def _describe(manifest):
    if manifest is None:
        return {"state": "absent"}
    return {"state": "present", **_repository.properties(manifest)}


def main():
    RepositoryModule.main()


if __name__ == "__main__":
    main()
