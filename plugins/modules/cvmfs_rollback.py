#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_rollback
short_description: Publish an old revision of a CernVM-FS repository once more
version_added: 0.2.0
description:
  - Publishes the content of an old revision as the newest one. Clients see it as any other new revision.
  - Tags of the revisions in between are removed. The tag that is gone back to then names the new revision.
  - When what it asks for was done already, it does nothing. No transaction may be open.
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
    support: full
    details:
      - The image's native publisher does it, and needs no CernVM-FS at all.
options:
  tag:
    description:
      - The tag to go back to.
    type: str
  undo:
    description:
      - The number of the newest revision, to go back to the one before it. That works once in a row.
      - The number is there so that nobody undoes what somebody else has published meanwhile.
    type: int
seealso:
  - module: cvmfs.publishing.cvmfs_tag
  - module: cvmfs.publishing.cvmfs_repository_info
"""

EXAMPLES = r"""
- name: Go back to what was published as v1.1
  cvmfs.publishing.cvmfs_rollback:
    repository: software.example.org
    tag: v1.1

- name: Undo revision 42, the newest one
  cvmfs.publishing.cvmfs_rollback:
    repository: software.example.org
    undo: 42
"""

RETURN = r"""
revision:
  description: The number of the newest revision; in check mode, the one that it would have.
  returned: success
  type: int
root_hash:
  description: The hash of its root catalog.
  returned: success, but not if check mode predicts a change
  type: str
previous_revision:
  description: The number of the newest revision before.
  returned: success
  type: int
removed:
  description: The names of the tags that are gone, or would be.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager

# The tags that are always moved along
_NEWEST = "trunk"
_BEFORE = "trunk-previous"


class Rollback(PublishingModule):
    argument_spec = dict(
        tag=dict(type="str"),
        undo=dict(type="int"),
        **ARGUMENT_SPEC,
    )
    module_options = dict(
        mutually_exclusive=[("tag", "undo")],
        required_one_of=[("tag", "undo")],
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        self.fqrn = self.release_manager.fqrn
        published = self.release_manager.published()
        self.newest = published.manifest()
        self.tags = {tag["name"]: tag for tag in published.tags()}
        target = self._target()
        self.before = self.after = self._describe(self.newest.revision, self.tags)
        self.result.update(
            revision=self.newest.revision,
            root_hash=self.newest.root_hash,
            previous_revision=self.newest.revision,
            removed=[],
        )
        if target is not None:
            self._predict(target)
            self._roll_back()

    def _target(self):
        """Return the tag to go back to, or None if that was done already. PublishingError."""
        return self._named(self.params["tag"]) if self.params["tag"] else self._before(self.params["undo"])

    def _named(self, name):
        if name not in self.tags:
            raise PublishingError(f"{self.fqrn} has no tag {name}", remedy="cvmfs_repository_info lists the tags.")
        return self.tags[name] if self.tags[name]["root_hash"] != self.newest.root_hash else None

    def _before(self, revision):
        newest = self.newest.revision
        if newest == revision and _BEFORE in self.tags:
            return self.tags[_BEFORE]
        if newest == revision + 1 and _BEFORE not in self.tags:  # as a rollback leaves it, and no publish
            return None
        if newest == revision:
            reason = "it was made by a rollback, or is the first one"
        else:
            reason = f"the newest one is {newest}"
        raise PublishingError(
            f"Revision {revision} of {self.fqrn} cannot be undone: {reason}", remedy="Name a tag to go back to."
        )

    def _predict(self, target):
        removed = [tag for tag in self.tags.values() if target["revision"] < tag["revision"]]
        names = sorted(tag["name"] for tag in removed if tag["name"] not in (_NEWEST, _BEFORE))
        revision = self.newest.revision + 1
        self.result.update(revision=revision, removed=names)
        left = {name: tag for name, tag in self.tags.items() if name not in names}
        if target["name"] != _BEFORE:
            left[target["name"]] = {**target, "revision": revision}
        self.after = self._describe(revision, left)
        if self.check_mode:
            del self.result["root_hash"]

    @staticmethod
    def _describe(revision, tags):
        named = {name: tag["revision"] for name, tag in tags.items() if name not in (_NEWEST, _BEFORE)}
        return {"revision": revision, "tags": named}

    @trigger_change
    @skip_if_check_mode
    def _roll_back(self):
        report = self.release_manager.server_once().rollback(tag=self.params["tag"], undo=self.params["undo"])
        for warning in report["warnings"]:
            self.module.warn(warning)
        self.result.update({key: report[key] for key in ("revision", "root_hash", "previous_revision")})


def main():
    Rollback.main()


if __name__ == "__main__":
    main()
