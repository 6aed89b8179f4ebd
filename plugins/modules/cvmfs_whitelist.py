#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_whitelist
short_description: Sign the whitelist of a CernVM-FS repository in time
version_added: 0.1.0
description:
  - Signs the whitelist of a repository again with the master key, when it would expire soon. Clients refuse a
    repository whose whitelist has expired.
  - It does not matter whether a transaction is open.
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
      - The master key of the repository, in PEM form. It is on the host only while the whitelist is signed.
    type: str
    required: true
  days:
    description:
      - How long a new whitelist is valid. The longer, the longer a stolen repository key can be used.
    type: int
    default: 30
  min_days:
    description:
      - A whitelist that is valid for more than so many days is left as it is.
    type: int
    default: 14
seealso:
  - module: cvmfs.publishing.cvmfs_repository
"""

EXAMPLES = r"""
- name: Sign the whitelist if it expires within a week
  cvmfs.publishing.cvmfs_whitelist:
    repository: software.example.org
    min_days: 7
    masterkey: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.masterkey', rstrip=false) }}"
  no_log: true
  vars:
    ansible_pipelining: true
"""

RETURN = r"""
expires:
  description: Until when the whitelist is valid. In check mode, until when the one that there is.
  returned: success
  type: str
  sample: "2026-12-24T18:00:00+00:00"
"""

import datetime

from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class WhitelistModule(PublishingModule):
    argument_spec = dict(
        masterkey=dict(type="str", required=True, no_log=True),
        days=dict(type="int", default=30),
        min_days=dict(type="int", default=14),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        expires = self._expires()
        self.before = {"expires": expires.isoformat()}
        now = datetime.datetime.now(datetime.timezone.utc)
        if expires - now < datetime.timedelta(days=self.params["min_days"]):
            self._resign()
            expires = now + datetime.timedelta(days=self.params["days"]) if self.check_mode else self._expires()
        self.after = {"expires": expires.isoformat()}
        self.result["expires"] = self.before["expires"] if self.check_mode else self.after["expires"]

    def _expires(self):
        return self.release_manager.published().whitelist().expires

    @trigger_change
    @skip_if_check_mode
    def _resign(self):
        with self.release_manager.masterkey(self.params["masterkey"], warn=self.module.warn) as secret:
            self.release_manager.server_once(extra_secrets=secret).resign(days=self.params["days"])


def main():
    WhitelistModule.main()


if __name__ == "__main__":
    main()
