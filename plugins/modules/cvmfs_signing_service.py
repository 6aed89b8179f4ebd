#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_signing_service
short_description: Have the container that signs for a repository's publishers
version_added: 0.2.0
description:
  - Runs C(cvmfs-signer) in a container of its own, which alone has the repository key. It signs manifests for
    publishing containers that hold the repository's lease.
  - The container engine starts it again if it ends. It is replaced when its image, secrets or configuration have
    changed; publishers wait for it for half a minute.
  - The role P(cvmfs.publishing.release_manager#role) uses this module where a repository has C(signing_service).
author:
  - The cvmfs.publishing authors (@cvmfs)
requirements:
  - An image of the native engine.
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
    support: none
    details:
      - CernVM-FS's own tools sign with a key that they have themselves.
options:
  state:
    description:
      - Whether the container is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Have the signing service
  cvmfs.publishing.cvmfs_signing_service:
    repository: software.example.org
"""

RETURN = r"""
container:
  description: The name of the container.
  returned: if the host is prepared for the repository
  type: str
  sample: cvmfs_signer-software.example.org
differences:
  description: In what the container was different, each with its C(name), and what is C(current) and C(desired).
  returned: state=present
  type: list
  elements: dict
"""

import dataclasses

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


class SigningService(PublishingModule):
    argument_spec = dict(
        state=dict(type="str", choices=["present", "absent"], default="present"),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        is_wanted = self.params["state"] == "present"
        self.before, self.after = {"container": None}, {"container": None}
        try:
            self.release_manager = ReleaseManager.of_params(self.params)
        except NotConfigured:
            if not self.check_mode:
                raise
            self.changed = is_wanted  # once the role has configured it
            return
        self.name = self.result["container"] = self.release_manager.signer_name
        if not is_wanted:
            if self.release_manager.engine.inspect(name=self.name) is not None:
                self.before = {"container": self.name}
                self._remove()
        elif self.check_mode and self.release_manager.signing_key_secret is None:
            self.changed = True
        else:
            self._have(self.release_manager.signer())

    def _have(self, container):
        with self.release_manager.lock():
            found = self.release_manager.engine.compare(container=container)
            self.result["differences"] = [dataclasses.asdict(difference) for difference in found]
            self.before = {difference.name: difference.current for difference in found}
            self.after = {difference.name: difference.desired for difference in found}
            if found:
                self._replace(container)

    @trigger_change
    @skip_if_check_mode
    def _replace(self, container):
        self.release_manager.ensure_container(container=container)

    @trigger_change
    @skip_if_check_mode
    def _remove(self):
        self.release_manager.engine.remove(name=self.name)


def main():
    SigningService.main()


if __name__ == "__main__":
    main()
