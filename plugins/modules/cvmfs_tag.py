#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_tag
short_description: Create or remove a named snapshot of a CernVM-FS repository
version_added: 0.1.0
description:
  - Gives a revision of a repository a name, or takes it away.
  - An existing tag is never moved to another revision.
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
    support: partial
    details:
      - CernVM-FS 2.8.0 or newer edits tags, whose descriptions are plain words then.
options:
  name:
    description:
      - The name of the tag.
    type: str
    required: true
  state:
    description:
      - Whether the tag should exist.
    type: str
    choices: [present, absent]
    default: present
  root_hash:
    description:
      - The root catalog of the revision to name. By default it is the newest revision.
    type: str
  description:
    description:
      - The description of a new tag.
    type: str
seealso:
  - module: cvmfs.publishing.cvmfs_publish
  - module: cvmfs.publishing.cvmfs_repository_info
"""

EXAMPLES = r"""
- name: Name what is published now
  cvmfs.publishing.cvmfs_tag:
    repository: software.example.org
    name: before-the-upgrade
    description: In case of regret
"""

RETURN = r"""
tag:
  description: The tag as it was found, or was created.
  returned: the tag exists, or existed
  type: dict
  contains:
    name:
      description: Its name.
      type: str
    revision:
      description: The number of the revision.
      type: int
    root_hash:
      description: The hash of the root catalog.
      type: str
    description:
      description: Its description.
      type: str
  sample:
    name: release-1.2
    revision: 7
    root_hash: f9ceb892c13bf5df6f5c53b21ffb2bf2b5350f8e
    description: First release with plots
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class Tag(PublishingModule):
    argument_spec = dict(
        name=dict(type="str", required=True),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        root_hash=dict(type="str"),
        description=dict(type="str"),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        self.name = self.params["name"]
        published = self.release_manager.published()
        current = _find(published, self.name)
        self.before = {"tag": current}
        if self.params["state"] == "present":
            self._ensure_present(current, published.manifest())
        else:
            self.after = {"tag": None}
            if current is not None:
                self.result["tag"] = current
                self._remove()

    def _ensure_present(self, current, newest):
        wanted = self.params["root_hash"]
        if current is None:
            self._create()
            current = _find(self.release_manager.published(), self.name) or {
                "name": self.name,
                "root_hash": wanted or newest.root_hash,
                "description": self.params["description"] or "",
            }
        elif wanted is not None and current["root_hash"] != wanted:
            raise PublishingError(
                f"Tag {self.name} is revision {current['revision']}, root hash {current['root_hash']}, not {wanted}",
                remedy="A tag is not moved. Remove it first, or choose another name.",
            )
        self.result["tag"] = current
        self.after = {"tag": current}

    @trigger_change
    @skip_if_check_mode
    def _create(self):
        server = self.release_manager.server_once()
        server.add_tag(name=self.name, description=self.params["description"], root_hash=self.params["root_hash"])

    @trigger_change
    @skip_if_check_mode
    def _remove(self):
        self.release_manager.server_once().remove_tag(name=self.name)


def _find(published, name):
    return next((tag for tag in published.tags() if tag["name"] == name), None)


def main():
    Tag.main()


if __name__ == "__main__":
    main()
