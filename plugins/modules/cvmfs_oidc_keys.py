#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_oidc_keys
short_description: Have the keys of issuers of OIDC tokens on a release manager's host
version_added: 0.2.0
description:
  - Fetches the keys that issuers sign tokens with, by https, and puts them where C(cvmfs-release-manager) looks for
    them, at once or not at all. It fetches them in check mode, too.
  - An issuer whose keys are not to be had keeps those that were fetched before, with a warning. If there are none, the
    module fails, and changes nothing.
  - The role P(cvmfs.publishing.release_manager#role) uses this module for C(release_manager_oidc). Proxies and the like
    are those of C(environment), and authorities those that the host trusts.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  issuers:
    description:
      - The issuers. Keys of others, which were fetched before, are removed.
    type: list
    elements: dict
    required: true
    suboptions:
      issuer:
        description: The URL that tokens have as C(iss), to the letter.
        type: str
        required: true
      jwks_url:
        description: Where its keys are, as a JWK set. By default, its C(.well-known/openid-configuration) says so.
        type: str
  config_dir:
    description:
      - The directory for the repositories' configuration, which has to exist.
      - By default, it is that of the user who runs the module, as with the other modules.
    type: path
"""

EXAMPLES = r"""
- name: Have the keys of GitLab
  cvmfs.publishing.cvmfs_oidc_keys:
    issuers:
      - issuer: https://gitlab.example.org
"""

RETURN = r"""
kept:
  description: The issuers whose keys were not to be had, and stay as they were.
  returned: success
  type: list
  elements: str
"""

import os

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._issuers import fetch, keep_keys, kept_keys, key_names
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import default_config_dir


class OidcKeys(PublishingModule):
    argument_spec = dict(
        issuers=dict(
            type="list",
            elements="dict",
            required=True,
            no_log=False,
            options=dict(issuer=dict(type="str", required=True), jwks_url=dict(type="str")),
        ),
        config_dir=dict(type="path"),
    )

    def execute(self):
        self.config_dir = self.params["config_dir"] or default_config_dir()
        current = kept_keys(self.config_dir)
        self.before = current or {}
        fetched, errors = fetch({entry["issuer"]: entry["jwks_url"] for entry in self.params["issuers"]})
        kept = {issuer: self.before[issuer] for issuer in errors if key_names(self.before.get(issuer))}
        lost = [str(error) for issuer, error in errors.items() if issuer not in kept]
        if lost:
            raise PublishingError(" ".join(lost))
        for issuer, keys in kept.items():
            self.module.warn(
                f"{errors[issuer]} {os.uname().nodename} keeps the keys of {issuer} that it has had "
                f"({key_names(keys)}), and refuses tokens that are signed with newer ones until then."
            )
        self.result["kept"] = sorted(kept)
        self.after = {**fetched, **kept}
        if self.after != current:
            self._write()

    @trigger_change
    @skip_if_check_mode
    def _write(self):
        keep_keys(self.config_dir, self.after)


def main():
    OidcKeys.main()


if __name__ == "__main__":
    main()
