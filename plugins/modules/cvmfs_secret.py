#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_secret
short_description: Give a release manager's host a key or a credential
version_added: 0.1.0
description:
  - Hands a secret to the container engine of a release manager's host, which shows it to containers as a file that
    only their root can read.
  - podman gets it on standard input and keeps it. docker has secrets only in a swarm, so there the secret is a file in
    a directory on a tmpfs, which is empty after a reboot.
  - The secret is never in an argument, in the environment, or in a file of the host outside the engine. For that,
    Ansible must not write the module's own arguments to the host's disk either - set C(ansible_pipelining=true).
author:
  - The cvmfs.publishing authors (@cvmfs)
requirements:
  - podman 4.3 or newer, or docker 20.10 or newer.
extends_documentation_fragment:
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details:
      - Names of secrets are shown, and never what is in them.
options:
  engine:
    description:
      - The container engine.
    type: str
    choices: [podman, docker]
    default: podman
  user:
    description:
      - The user of the host whose engine it is, if this is root. By default it is the one who runs the module.
    version_added: 0.2.0
    type: str
  repository:
    description:
      - The fully qualified name of the repository that the secret is for.
    type: str
    required: true
    aliases: [fqrn]
  name:
    description:
      - What the secret is, such as V(key), in lower-case letters and digits. A part of its name in the engine.
      - Not used with O(state=absent), which is about all secrets of the repository.
    type: str
  value:
    description:
      - The secret itself.
    type: str
  keep:
    description:
      - The full names of secrets that are not to be removed.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) ensures that the engine has the secret with this value. Its full name ends in a short hash of the
        value, so a container that still runs with an old value keeps it.
      - V(absent) removes the secrets of the repository but for those to O(keep).
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Hand over the repository key
  cvmfs.publishing.cvmfs_secret:
    repository: software.example.org
    name: key
    value: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.key', rstrip=false) }}"
  no_log: true
  register: key
  vars:
    ansible_pipelining: true

- name: Remove the secrets that were replaced
  cvmfs.publishing.cvmfs_secret:
    repository: software.example.org
    state: absent
    keep: ["{{ key.full_name }}"]
"""

RETURN = r"""
full_name:
  description: The name of the secret in the engine.
  returned: state=present
  type: str
  sample: cvmfs-software.example.org-key-0f7c1b2d9e41
removed:
  description: The names of the secrets that were removed.
  returned: state=absent
  type: list
  elements: str
"""

import hashlib
import hmac
import re

from ansible_collections.cvmfs.publishing.plugins.module_utils._engine import engine, is_secret_of, secret_name
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)

_DIGITS = 12  # of the hash: enough to tell values apart, too few to search for one


def full_name(repository, name, value):
    """Return the engine's name of a secret.

    Equal names have equal values, so a secret never has to be read to be compared. PublishingError.
    """
    if not re.fullmatch("[a-z0-9]+", name):
        raise PublishingError(
            f"{name} is no name of a secret", remedy="Write lower-case letters and digits, as in key."
        )
    digest = hmac.new(f"{repository} {name}".encode(), value.encode(), hashlib.sha256).hexdigest()
    return secret_name(repository, name, digest[:_DIGITS])


class Secret(PublishingModule):
    argument_spec = dict(
        engine=dict(type="str", choices=["podman", "docker"], default="podman"),
        user=dict(type="str"),
        repository=dict(type="str", required=True, aliases=["fqrn"]),
        name=dict(type="str"),
        value=dict(type="str", no_log=True),
        keep=dict(type="list", elements="str", default=[]),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    )
    module_options = dict(required_if=[("state", "present", ("name", "value"))])

    def execute(self):
        self.engine = engine(self.params["engine"], self.params["user"])
        current = sorted(name for name in self.engine.secrets() if is_secret_of(self.params["repository"], name))
        self.before = {"secrets": current}
        if self.params["state"] == "present":
            name = full_name(self.params["repository"], self.params["name"], self.params["value"])
            self.result["full_name"] = name
            if name not in current:
                self._create(name)
            self.after = {"secrets": sorted({*current, name})}
        else:
            removed = [name for name in current if name not in self.params["keep"]]
            self.result["removed"] = removed
            for name in removed:
                self._remove(name)
            self.after = {"secrets": [name for name in current if name not in removed]}

    @trigger_change
    @skip_if_check_mode
    def _create(self, name):
        self.engine.create_secret(name=name, value=self.params["value"])

    @trigger_change
    @skip_if_check_mode
    def _remove(self, name):
        self.engine.remove_secret(name=name)


def main():
    Secret.main()


if __name__ == "__main__":
    main()
