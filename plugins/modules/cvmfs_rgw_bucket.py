#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_rgw_bucket
short_description: Limit a bucket of Ceph's object gateway, and tell what is in it
version_added: 0.2.0
description:
  - Ensures that a bucket of the Ceph Object Gateway (RGW) has a quota, by C(radosgw-admin) or by the gateway's admin
    API.
  - Returns what only the gateway's administrators can see of a bucket, such as its owner, its placement and its usage.
  - Buckets are created with M(cvmfs.publishing.cvmfs_s3_bucket), by their owners.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.rgw
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
    details:
      - A bucket that does not exist yet is taken for one that will be created by then.
  diff_mode:
    support: full
options:
  bucket:
    description:
      - The name of the bucket.
    type: str
    required: true
    aliases: [name]
  quota_bytes:
    description:
      - The most that the bucket may hold, in bytes. 0 is without limit.
      - By default the quota is left as it is.
      - A bucket without an index is refused a quota. The gateway does not know what is in it, and would not enforce
        any.
    type: int
  placement:
    description:
      - The placement target that the bucket should have, in the form of C(LocationConstraint), such as V(:indexless).
      - Where a bucket is, is decided when it is created. If this one is elsewhere, the module warns.
    type: str
seealso:
  - module: cvmfs.publishing.cvmfs_s3_bucket
  - module: cvmfs.publishing.cvmfs_rgw_user
"""

EXAMPLES = r"""
- name: Let a repository grow to a tebibyte
  cvmfs.publishing.cvmfs_rgw_bucket:
    bucket: software
    endpoint: https://s3.example.org
    admin_access_key: "{{ rgw_admin_access_key }}"
    admin_secret_key: "{{ rgw_admin_secret_key }}"
    quota_bytes: 1099511627776
  vars:
    ansible_pipelining: true
"""

RETURN = r"""
bucket:
  description: The name of the bucket.
  returned: success
  type: str
owner:
  description: The user who owns the bucket.
  returned: the bucket exists, and has an index
  type: str
placement:
  description: The placement target.
  returned: the bucket exists, and has an index
  type: str
  sample: default-placement
indexed:
  description: Whether the bucket has an index, so that it can be listed and limited.
  returned: the bucket exists
  type: bool
quota_bytes:
  description: The quota, 0 without one.
  returned: the bucket exists
  type: int
usage:
  description: What the bucket holds. Without an index, nobody knows.
  returned: the bucket exists, and has an index
  type: dict
  contains:
    bytes:
      description: The size of all objects together.
      type: int
    objects:
      description: How many objects there are.
      type: int
differences:
  description: What was, or in check mode is, not as it should be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: What it is about, such as V(quota_bytes).
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
from ansible_collections.cvmfs.publishing.plugins.module_utils._rgw import (
    ARGUMENT_SPEC,
    REQUIRED_TOGETHER,
    gateway,
    quota_of,
)


class RgwBucket(PublishingModule):
    argument_spec = dict(
        bucket=dict(type="str", required=True, aliases=["name"]),
        quota_bytes=dict(type="int"),
        placement=dict(type="str"),
        **ARGUMENT_SPEC,
    )
    module_options = dict(required_together=REQUIRED_TOGETHER)

    def execute(self):
        self.name = self.params["bucket"]
        self.gateway = gateway(self.params)
        self.result["bucket"] = self.name
        bucket = self.gateway.bucket(self.name)
        if bucket is None and not self.check_mode:
            raise PublishingError(f"The gateway has no bucket {self.name}", remedy="Create it with cvmfs_s3_bucket.")
        self.before = {"quota_bytes": quota_of(bucket, "bucket_quota"), "placement": _placement(bucket)}
        self.after = dict(self.before)
        if self.params["quota_bytes"] is not None:
            self.after["quota_bytes"] = self.params["quota_bytes"]
        if bucket is not None:
            self._return_facts(bucket)
        if self.after != self.before:
            self._set_quota((bucket or {}).get("owner"))
        wanted = dict(self.after)
        if self.params["placement"] and self.before["placement"]:
            wanted["placement"] = _target(self.params["placement"])
        self.result["differences"] = differences(self.before, wanted)
        if wanted["placement"] != self.after["placement"]:
            self.module.warn(
                f"Bucket {self.name} is in placement target {self.after['placement']}, not in {wanted['placement']}. "
                "Only a new bucket can be elsewhere: copy the repository."
            )

    def _return_facts(self, bucket):
        indexed = bucket.get("index_type") != "Indexless"
        self.result.update(
            owner=bucket["owner"],
            placement=self.before["placement"],
            indexed=indexed,
            quota_bytes=self.after["quota_bytes"],
        )
        if indexed:
            usage = bucket["usage"].values()
            self.result["usage"] = {
                "bytes": sum(part["size"] for part in usage),
                "objects": sum(part["num_objects"] for part in usage),
            }
        elif self.after["quota_bytes"]:
            raise PublishingError(
                f"Bucket {self.name} has no index, so the gateway cannot enforce a quota on it",
                remedy="Set no quota for it, or use a bucket with an index.",
            )

    @trigger_change
    @skip_if_check_mode
    def _set_quota(self, owner):
        self.gateway.set_bucket_quota(self.name, owner, self.after["quota_bytes"])


def _placement(bucket):
    rule = (bucket or {}).get("placement_rule")
    return _target(rule) if rule else None


def _target(placement):
    """The target alone, without zone group and storage class."""
    return placement.rpartition(":")[2].partition("/")[0]


def main():
    RgwBucket.main()


if __name__ == "__main__":
    main()
