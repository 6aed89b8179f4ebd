#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_s3_bucket
short_description: Create an S3 bucket for CernVM-FS repositories and prove that it is good for publishing
version_added: 0.1.0
description:
  - Ensures that a bucket exists, that everybody can read it, and that only its owner can write to it.
  - Proves with probe objects, which it removes again, that the service honours C(If-None-Match) and C(If-Match) on
    C(PUT), on which concurrent release managers rely.
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
      - Probe objects are not written in check mode.
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
      - V(absent) removes it. A bucket that is not empty is refused unless O(force) is set.
    type: str
    choices: [present, absent]
    default: present
  public_read:
    description:
      - Whether everybody may read, by a bucket policy that grants C(s3:GetObject) and C(s3:ListBucket).
      - Without the latter, what does not exist answers 403, where CernVM-FS clients want 404.
    type: bool
    default: true
  placement:
    description:
      - The placement target of a new bucket, in the form of the service's C(LocationConstraint).
      - With Ceph RGW, V(:indexless) and a zone with that target make writing considerably faster, as nobody ever lists
        the bucket.
    type: str
  preflight:
    description:
      - Whether to prove that conditional writes and anonymous reading work.
    type: bool
    default: true
  force:
    description:
      - With O(state=absent), removes all objects of the bucket, and with them all repositories in it.
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_rgw_user
"""

EXAMPLES = r"""
- name: Have a bucket for a repository
  cvmfs.publishing.cvmfs_s3_bucket:
    endpoint: https://s3.example.org
    bucket: software
    access_key: "{{ software_access_key }}"
    secret_key: "{{ software_secret_key }}"
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
preflight:
  description: What the preflight has proved.
  returned: O(state=present) and O(preflight=true), but not in check mode
  type: dict
  contains:
    conditional_writes:
      description: Whether C(If-None-Match) and C(If-Match) are honoured on C(PUT).
      type: bool
    etag_form:
      description: How the service wants the ETag of C(If-Match), V(quoted) or V(unquoted).
      type: str
    anonymous_read:
      description: Whether everybody can read and nobody else can write.
      type: bool
removed_objects:
  description: How many objects were removed with the bucket.
  returned: O(state=absent)
  type: int
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._s3 import ARGUMENT_SPEC, Bucket


class S3Bucket(PublishingModule):
    argument_spec = dict(
        bucket=dict(type="str", required=True, aliases=["name"]),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        public_read=dict(type="bool", default=True),
        placement=dict(type="str"),
        preflight=dict(type="bool", default=True),
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

    def _ensure_present(self, exists, policy):
        if not exists:
            self._create()
        wanted = self.bucket.public_policy if self.params["public_read"] else None
        if _normal(policy) != _normal(wanted):
            self._set_policy(wanted)
        self.after = {"state": "present", "policy": wanted}
        if self.params["preflight"]:
            self._preflight()

    def _ensure_absent(self, exists):
        self.result["removed_objects"] = 0
        self.after = {"state": "absent", "policy": None}
        if not exists:
            return
        if not self.params["force"] and not self.bucket.is_empty():
            raise PublishingError(
                f"Bucket {self.bucket.name} at {self.bucket.endpoint} is not empty",
                remedy="With force: true, everything in it is removed for good.",
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
    def _remove(self):
        self.result["removed_objects"] = self.bucket.empty() if self.params["force"] else 0
        self.bucket.remove()

    @skip_if_check_mode
    def _preflight(self):
        form = self.bucket.preflight(public_read=self.params["public_read"])
        self.result["preflight"] = dict(
            conditional_writes=True, etag_form=form, anonymous_read=self.params["public_read"]
        )


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
