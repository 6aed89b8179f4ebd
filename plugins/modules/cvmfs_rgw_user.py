#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_rgw_user
short_description: Create a user of Ceph's object gateway
version_added: 0.1.0
description:
  - Ensures that the Ceph Object Gateway (RGW) has a user, with a pair of S3 keys, by C(radosgw-admin).
  - The gateway generates the keys, and the module returns them. C(radosgw-admin) takes keys only as arguments, which
    everybody on the host can see, so given keys are not supported.
  - As the result contains the secret key, use C(no_log=true) for the task.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
    details:
      - The keys of a user that does not exist yet cannot be predicted, and are not returned.
  diff_mode:
    support: full
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
  command:
    description:
      - How to call C(radosgw-admin), for example in a container.
    type: list
    elements: str
    default: [radosgw-admin]
  quota_bytes:
    description:
      - The most that the user may store, in bytes. 0 is without limit.
      - By default the quota is left as it is.
    type: int
  state:
    description:
      - Whether the user should exist.
      - A user who has buckets is not removed.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: cvmfs.publishing.cvmfs_s3_bucket
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
"""

import json

from ansible_collections.cvmfs.publishing.plugins.module_utils import _command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)

_NO_SUCH_USER = 22  # EINVAL; other failures, such as no connection to the cluster, have other codes


class RgwUser(PublishingModule):
    argument_spec = dict(
        uid=dict(type="str", required=True, aliases=["name"]),
        display_name=dict(type="str"),
        command=dict(type="list", elements="str", default=["radosgw-admin"]),
        quota_bytes=dict(type="int"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    )

    def execute(self):
        self.uid = self.params["uid"]
        self.result["uid"] = self.uid
        user = self._info()
        self.before = _summary(user)
        if self.params["state"] == "present":
            self._ensure_present(user)
        else:
            self.after = _summary(None)
            if user is not None:
                self._remove()

    def _ensure_present(self, user):
        wanted_name = self.params["display_name"] or self.uid
        if user is None:
            self._create(wanted_name)
        elif self.params["display_name"] and user["display_name"] != wanted_name:
            self._change("user", "modify", f"--display-name={wanted_name}")
        if user is not None and not user["keys"]:
            self._change("key", "create", "--key-type=s3", "--gen-access-key", "--gen-secret")
        quota = self.params["quota_bytes"]
        if quota is not None and quota != _quota(user):
            self._set_quota(quota)
        user = self._info()
        self.after = _summary(user) if not self.check_mode else self._predicted(wanted_name)
        if user is not None and user["keys"]:
            key = user["keys"][0]
            self.result.update(access_key=key["access_key"], secret_key=key["secret_key"])

    def _predicted(self, name):
        quota = self.params["quota_bytes"]
        return {
            "state": "present",
            "display_name": name,
            "quota_bytes": self.before["quota_bytes"] if quota is None else quota,
        }

    def _set_quota(self, quota):
        self._change("quota", "set", "--quota-scope=user", f"--max-size={quota if quota else -1}")
        self._change("quota", "enable" if quota else "disable", "--quota-scope=user")

    def _create(self, name):
        self._change("user", "create", f"--display-name={name}")

    def _remove(self):
        self._change("user", "rm")

    @trigger_change
    @skip_if_check_mode
    def _change(self, *arguments):
        self._admin(*arguments).check(f"Cannot do radosgw-admin {' '.join(arguments[:2])} for user {self.uid}")

    def _info(self):
        completed = self._admin("user", "info")
        if completed.rc == _NO_SUCH_USER and "no user info" in completed.stderr:
            return None
        if completed.rc != 0:
            raise CommandError(
                f"radosgw-admin cannot look for user {self.uid}: {completed.complaint}",
                completed,
                remedy="Does its command reach the Ceph cluster, with a keyring that may administer the gateway?",
            )
        try:
            return json.loads(completed.stdout)
        except ValueError as error:
            raise PublishingError(f"radosgw-admin printed no JSON document: {error}") from None

    def _admin(self, *arguments):
        return _command.run([*self.params["command"], *arguments, f"--uid={self.uid}"])


def _quota(user):
    """The quota in bytes; 0 without one."""
    quota = (user or {}).get("user_quota", {})
    return quota["max_size"] if quota.get("enabled") and quota["max_size"] > 0 else 0


def _summary(user):
    if user is None:
        return {"state": "absent", "display_name": None, "quota_bytes": 0}
    return {"state": "present", "display_name": user["display_name"], "quota_bytes": _quota(user)}


def main():
    RgwUser.main()


if __name__ == "__main__":
    main()
