#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_s3_bucket
short_description: Create an S3 bucket for CernVM-FS repositories
version_added: 0.1.0
description:
  - Ensures that a bucket exists, that everybody can read it, and that only its owner, and the publishers whom the owner
    names, can write to it.
  - M(cvmfs.publishing.cvmfs_s3_preflight) proves that the bucket is good for publishing.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.s3
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
    details:
      - With O(state=absent), it is not found out in check mode whether the bucket has an index.
  diff_mode:
    support: full
options:
  bucket:
    description:
      - The name of the bucket.
    type: str
    required: true
    aliases: [name]
  state:
    description:
      - V(present) ensures that the bucket exists with the right policy.
      - V(absent) removes it. A bucket that is not empty is refused unless O(force) is set, and so is a bucket
        without an index, of which nobody can say whether it is.
    type: str
    choices: [present, absent]
    default: present
  public_read:
    description:
      - Whether everybody may read, by a bucket policy that grants C(s3:GetObject) and C(s3:ListBucket).
      - Without the latter, what does not exist answers 403, where CernVM-FS clients want 404.
    type: bool
    default: true
  publishers:
    description:
      - Users other than the owner who may write a repository each, and nothing else. They cannot change the bucket's
        policy, and they cannot write to the other repositories of the bucket.
      - They are given by the repository's fully qualified name, each as the ID of a user of the Ceph Object Gateway or
        as the ARN of a user of another service.
    version_added: 0.2.0
    type: dict
    default: {}
  cors_origins:
    description:
      - Whose web pages may read the bucket in a browser, such as V(https://dashboard.example.org), or V(*) for all.
      - By default the bucket's CORS rules are left as they are. With an empty list there are none.
    version_added: 0.2.0
    type: list
    elements: str
  placement:
    description:
      - The placement target of a new bucket, in the form of the service's C(LocationConstraint).
      - With Ceph RGW, V(:indexless) and a zone with that target make writing considerably faster. Such a bucket cannot
        be listed and has no quota.
    type: str
  force:
    description:
      - With O(state=absent), removes all objects of the bucket, and with them all repositories in it.
      - The objects of a bucket without an index cannot be found any more. They stay in the service's storage.
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_rgw_bucket
  - module: cvmfs.publishing.cvmfs_rgw_user
  - module: cvmfs.publishing.cvmfs_s3_preflight
"""

EXAMPLES = r"""
- name: Have a bucket for a repository
  cvmfs.publishing.cvmfs_s3_bucket:
    endpoint: https://s3.example.org
    bucket: software
    access_key: "{{ software_owner_access_key }}"
    secret_key: "{{ software_owner_secret_key }}"
    publishers:
      software.example.org: cvmfs-software.example.org-publisher
  delegate_to: localhost
"""

RETURN = r"""
bucket:
  description: The name of the bucket.
  returned: success
  type: str
url:
  description: Where everybody can read the bucket. A repository is below it, under its name.
  returned: success
  type: str
  sample: https://s3.example.org/software
removed_objects:
  description: How many objects were removed with the bucket.
  returned: O(state=absent)
  type: int
differences:
  description: What was, or in check mode is, not as it should be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: What it is about, such as V(policy).
      type: str
    current:
      description: How it was.
      type: raw
    desired:
      description: How it should be.
      type: raw
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    differences,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._s3 import ARGUMENT_SPEC, Bucket


class S3Bucket(PublishingModule):
    argument_spec = dict(
        bucket=dict(type="str", required=True, aliases=["name"]),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        public_read=dict(type="bool", default=True),
        publishers=dict(type="dict", default={}),
        cors_origins=dict(type="list", elements="str"),
        placement=dict(type="str"),
        force=dict(type="bool", default=False),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        self.bucket = Bucket(name=self.params["bucket"], **{name: self.params[name] for name in ARGUMENT_SPEC})
        self.result.update(bucket=self.bucket.name, url=self.bucket.url)
        exists = self.bucket.exists()
        policy = self.bucket.policy() if exists else None
        self.before = {"state": "present" if exists else "absent", "policy": policy}
        if self.params["state"] == "present":
            self._ensure_present(exists, policy)
        else:
            self._ensure_absent(exists)
        self.result["differences"] = differences(self.before, self.after)

    def _ensure_present(self, exists, policy):
        if not exists:
            self._create()
        wanted = self.bucket.wanted_policy(public_read=self.params["public_read"], publishers=self.params["publishers"])
        self.after = {"state": "present", "policy": policy}
        if _normal(policy) != _normal(wanted):
            self._set_policy(wanted)
            self.after["policy"] = wanted
        if self.params["cors_origins"] is not None:
            self._ensure_cors(exists)

    def _ensure_cors(self, exists):
        wanted = sorted(set(self.params["cors_origins"]))
        current = self.bucket.cors_origins() if exists else []
        self.before["cors_origins"], self.after["cors_origins"] = current, wanted
        if current != wanted:
            self._set_cors(wanted)

    def _ensure_absent(self, exists):
        self.result["removed_objects"] = 0
        self.after = {"state": "absent", "policy": None}
        if not exists:
            return
        indexed = self.check_mode or self.bucket.is_indexed()
        if not self.params["force"]:
            if not self.bucket.is_empty():
                raise PublishingError(
                    f"Bucket {self.bucket.name} at {self.bucket.endpoint} is not empty",
                    remedy="With force: true, everything in it is removed for good.",
                )
            if not indexed:
                raise PublishingError(
                    f"Bucket {self.bucket.name} at {self.bucket.endpoint} has no index: it may or may not be empty",
                    remedy="With force: true it is removed, and its objects stay in the service's storage.",
                )
        self._remove()

    @trigger_change
    @skip_if_check_mode
    def _create(self):
        self.bucket.create(placement=self.params["placement"])

    @trigger_change
    @skip_if_check_mode
    def _set_policy(self, policy):
        self.bucket.set_policy(policy)

    @trigger_change
    @skip_if_check_mode
    def _set_cors(self, origins):
        self.bucket.set_cors_origins(origins)

    @trigger_change
    @skip_if_check_mode
    def _remove(self):
        self.result["removed_objects"] = self.bucket.empty() if self.params["force"] else 0
        self.bucket.remove()


def _normal(policy):
    """A policy without the freedom of form that services make use of when they give it back."""
    if policy is None:
        return None
    statements = [
        {**item, **{name: _list(item.get(name)) for name in ("Principal", "Action", "Resource")}, "Sid": None}
        for item in policy.get("Statement", [])
    ]
    return sorted(statements, key=lambda item: repr(sorted(item.items())))


def _list(value):
    if isinstance(value, dict):
        return _list(value.get("AWS"))
    return sorted(value) if isinstance(value, list) else [value]


def main():
    S3Bucket.main()


if __name__ == "__main__":
    main()
