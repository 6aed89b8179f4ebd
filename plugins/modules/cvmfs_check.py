#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_check
short_description: Check that a CernVM-FS repository is whole
version_added: 0.1.0
description:
  - Runs C(cvmfs_server check) in a release-manager container, which looks at signatures, catalogs and counters, and
    whether all objects are there.
  - To verify a repository independently of the publisher, use M(cvmfs.publishing.cvmfs_verify).
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.release_manager
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.info
  - cvmfs.publishing.attributes.action_group
  - cvmfs.publishing.attributes.upstream_engine
attributes:
  upstream_engine:
    support: partial
    details:
      - CernVM-FS 2.8.0 or newer checks, and only RV(problems) is returned.
options:
  integrity:
    description:
      - Whether to read all objects and to check their hashes.
    type: bool
    default: false
  tag:
    description:
      - A named snapshot to check. By default it is the newest revision.
    type: str
  fail_on_problem:
    description:
      - Whether a problem is an error.
    type: bool
    default: true
seealso:
  - module: cvmfs.publishing.cvmfs_verify
"""

EXAMPLES = r"""
- name: Check a repository
  cvmfs.publishing.cvmfs_check:
    repository: software.example.org
"""

RETURN = r"""
catalogs:
  description: How many catalogs were checked.
  returned: with the native engine
  type: int
entries:
  description: How many files, directories and links they have.
  returned: with the native engine
  type: int
objects:
  description: How many objects were checked.
  returned: with the native engine
  type: int
problems:
  description: What is wrong.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class Check(PublishingModule):
    argument_spec = dict(
        integrity=dict(type="bool", default=False),
        tag=dict(type="str"),
        fail_on_problem=dict(type="bool", default=True),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        release_manager = ReleaseManager.of_params(self.params)
        report = release_manager.server_once().check(integrity=self.params["integrity"], tag=self.params["tag"])
        for warning in report.pop("warnings", []):  # the upstream engine has none
            self.module.warn(warning)
        self.result.update(report)
        problems = report["problems"]
        if problems and self.params["fail_on_problem"]:
            raise PublishingError(
                f"Repository {release_manager.fqrn} has {len(problems)} problems: {'; '.join(problems[:3])}",
                remedy="All of them are in problems.",
            )


def main():
    Check.main()


if __name__ == "__main__":
    main()
