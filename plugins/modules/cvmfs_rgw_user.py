#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_rgw_user
short_description: Create a user of Ceph's object gateway, and replace their keys
version_added: 0.1.0
description:
  - Ensures that the Ceph Object Gateway (RGW) has a user, with a pair of S3 keys, by C(radosgw-admin) or by the
    gateway's admin API.
  - The gateway generates the keys, and the module returns them. C(radosgw-admin) takes keys only as arguments, which
    everybody on the host can see, so given keys are not supported.
  - As the result contains the secret key, use C(no_log=true) for the task.
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
      - The keys of a user that does not exist yet cannot be predicted, and are not returned.
  diff_mode:
    support: full
    details:
      - Access keys are shown, and secret keys are not.
options:
  uid:
    description:
      - The ID of the user.
    type: str
    required: true
    aliases: [name]
  display_name:
    description:
      - The name for people. By default it is that of O(uid).
    type: str
  quota_bytes:
    description:
      - The most that the user may store, in bytes. 0 is without limit.
      - By default the quota is left as it is.
    type: int
  max_buckets:
    description:
      - How many buckets the user may have. 0 is without limit, and with V(-1) the user cannot create any.
      - By default it is left as it is, or what the gateway gives to new users.
    version_added: 0.2.0
    type: int
  access_key:
    description:
      - Which of the user's keys to return. If it is not set, or if the user does not have it, another one is returned.
    version_added: 0.2.0
    type: str
  replaces:
    description:
      - An access key to replace. If the user has no other key, the gateway generates one, and that one is returned.
      - Both keys work then, until the old one is among O(remove_keys).
    version_added: 0.2.0
    type: str
  remove_keys:
    description:
      - Access keys that the user should not have. The last one is not removed.
    version_added: 0.2.0
    type: list
    elements: str
    default: []
  state:
    description:
      - Whether the user should exist.
      - A user who has buckets is not removed.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: cvmfs.publishing.cvmfs_s3_bucket
  - module: cvmfs.publishing.cvmfs_rgw_bucket
"""

EXAMPLES = r"""
- name: Have a user for a repository
  cvmfs.publishing.cvmfs_rgw_user:
    uid: cvmfs-software
    display_name: CernVM-FS software.example.org
    command: [podman, exec, ceph, radosgw-admin]
    quota_bytes: 1099511627776
  no_log: true
  register: user

- name: Have a second key, without radosgw-admin
  cvmfs.publishing.cvmfs_rgw_user:
    uid: cvmfs-software
    endpoint: https://s3.example.org
    admin_access_key: "{{ rgw_admin_access_key }}"
    admin_secret_key: "{{ rgw_admin_secret_key }}"
    replaces: 0555B35654AD1656D804
  no_log: true
  register: user
  vars:
    ansible_pipelining: true
"""

RETURN = r"""
uid:
  description: The ID of the user.
  returned: success
  type: str
access_key:
  description: The access key.
  returned: O(state=present), and the user exists
  type: str
secret_key:
  description: The secret key.
  returned: O(state=present), and the user exists
  type: str
access_keys:
  description: All access keys of the user.
  returned: O(state=present), and the user exists
  type: list
  elements: str
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

_NEW_KEY = "(new)"


class RgwUser(PublishingModule):
    argument_spec = dict(
        uid=dict(type="str", required=True, aliases=["name"]),
        display_name=dict(type="str"),
        quota_bytes=dict(type="int"),
        max_buckets=dict(type="int"),
        access_key=dict(type="str", no_log=False),
        replaces=dict(type="str"),
        remove_keys=dict(type="list", elements="str", default=[], no_log=False),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        **ARGUMENT_SPEC,
    )
    module_options = dict(required_together=REQUIRED_TOGETHER)

    def execute(self):
        self.uid = self.params["uid"]
        self.gateway = gateway(self.params)
        self.result["uid"] = self.uid
        user = self.gateway.user(self.uid)
        self.before = _summary(user)
        if self.params["state"] == "present":
            self._ensure_present(user)
        else:
            self.after = _summary(None)
            if user is not None:
                self._remove()
        self.result["differences"] = differences(self.before, self.after)

    def _ensure_present(self, user):
        self.after = self._wanted()
        names = ("display_name", "max_buckets")
        if user is None:
            self._create({name: self.after[name] for name in names if self.after[name] is not None})
        else:
            changes = {name: self.after[name] for name in names if self.after[name] != self.before[name]}
            if changes:
                self._change(changes)
            if _NEW_KEY in self.after["access_keys"]:
                self._create_key()
            for access_key in self.before["access_keys"]:
                if access_key not in self.after["access_keys"]:
                    self._remove_key(access_key)
        if self.after["quota_bytes"] != self.before["quota_bytes"]:
            self._set_quota()
        if self.changed and not self.check_mode:
            user = self.gateway.user(self.uid)
            self.after = _summary(user)
        self._return_keys(user)

    def _wanted(self):
        names = ("display_name", "quota_bytes", "max_buckets")
        given = {name: self.params[name] for name in names if self.params[name] is not None}
        wanted = {**self.before, **given, "state": "present"}
        wanted["display_name"] = wanted["display_name"] or self.uid
        keys = self.before["access_keys"]
        if not set(keys) - {self.params["replaces"]}:
            keys = [*keys, _NEW_KEY]
        wanted["access_keys"] = [key for key in keys if key not in self.params["remove_keys"]]
        if not wanted["access_keys"]:
            raise PublishingError(
                f"User {self.uid} would have no key left", remedy="Replace it first, with replaces, or remove the user."
            )
        return wanted

    def _return_keys(self, user):
        keys = (user or {}).get("keys", [])
        good = [key for key in keys if key["access_key"] != self.params["replaces"]]
        chosen = [key for key in good if key["access_key"] == self.params["access_key"]] or good
        if chosen:
            self.result.update(access_key=chosen[0]["access_key"], secret_key=chosen[0]["secret_key"])
        if user is not None:
            self.result["access_keys"] = [key["access_key"] for key in keys]

    @trigger_change
    @skip_if_check_mode
    def _create(self, properties):
        self.gateway.create_user(self.uid, **properties)

    @trigger_change
    @skip_if_check_mode
    def _change(self, properties):
        self.gateway.change_user(self.uid, **properties)

    @trigger_change
    @skip_if_check_mode
    def _remove(self):
        self.gateway.remove_user(self.uid)

    @trigger_change
    @skip_if_check_mode
    def _create_key(self):
        self.gateway.create_key(self.uid)

    @trigger_change
    @skip_if_check_mode
    def _remove_key(self, access_key):
        self.gateway.remove_key(self.uid, access_key)

    @trigger_change
    @skip_if_check_mode
    def _set_quota(self):
        self.gateway.set_user_quota(self.uid, self.after["quota_bytes"])


def _summary(user):
    if user is None:
        return {"state": "absent", "display_name": None, "quota_bytes": 0, "max_buckets": None, "access_keys": []}
    return {
        "state": "present",
        "display_name": user["display_name"],
        "quota_bytes": quota_of(user, "user_quota"),
        "max_buckets": user["max_buckets"],
        "access_keys": [key["access_key"] for key in user["keys"]],
    }


def main():
    RgwUser.main()


if __name__ == "__main__":
    main()
