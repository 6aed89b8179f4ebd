#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_gc
short_description: Collect the garbage of a CernVM-FS repository
version_added: 0.2.0
description:
  - Deletes what no preserved revision of a repository needs, with C(cvmfs_server gc) in a release-manager container.
  - The newest revision and all named snapshots are preserved, and besides them what O(revisions) or O(newer_than) say.
  - The repository must be configured with C(CVMFS_GARBAGE_COLLECTION). No transaction may be open.
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
    details:
      - The catalogs are read for that as otherwise; an open transaction is not in the way.
  diff_mode:
    support: full
  upstream_engine:
    support: full
    details:
      - The image's native publisher does it, and needs no CernVM-FS at all.
options:
  revisions:
    description:
      - How many revisions before the newest to preserve, whatever their age.
    type: int
  newer_than:
    description:
      - The age of the revisions to preserve, in the words of C(date(1)).
      - By default it is V(3 days ago).
    type: str
  orphans:
    description:
      - Whether to list the bucket, too, and to delete the objects that no revision names, as publishes leave them that
        were interrupted.
    type: bool
    default: false
  orphans_before:
    description:
      - How old such objects must be, in the words of C(date(1)).
      - By default it is V(1 day ago).
    type: str
notes:
  - The options on orphans need the native engine.
seealso:
  - module: cvmfs.publishing.cvmfs_tag
    description: What has a tag is preserved.
"""

EXAMPLES = r"""
- name: Delete what was removed more than a month ago
  cvmfs.publishing.cvmfs_gc:
    repository: software.example.org
    newer_than: 30 days ago
"""

RETURN = r"""
preserved_revisions:
  description: How many revisions stay.
  returned: success
  type: int
preserved_catalogs:
  description: How many catalogs they have.
  returned: success
  type: int
condemned_revisions:
  description: How many revisions are gone.
  returned: success
  type: int
condemned_catalogs:
  description: How many catalogs are gone.
  returned: success
  type: int
condemned_objects:
  description: How many objects are gone, catalogs included.
  returned: success
  type: int
orphans:
  description: How many of the objects no revision has named.
  returned: success
  type: int
orphan_bytes:
  description: How many bytes these had.
  returned: success
  type: int
condemned_bytes:
  description:
    - How many bytes the data objects that are gone had.
    - Null unless C(CVMFS_EXTENDED_GC_STATS) is true in C(server.conf), as each object has to be asked for its size.
  returned: success
  type: int
seconds:
  description: How long it took.
  returned: success
  type: float
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class GarbageCollection(PublishingModule):
    argument_spec = dict(
        revisions=dict(type="int"),
        newer_than=dict(type="str"),
        orphans=dict(type="bool", default=False),
        orphans_before=dict(type="str"),
        **ARGUMENT_SPEC,
    )
    module_options = dict(
        mutually_exclusive=[("revisions", "newer_than")],
        required_by=dict(orphans_before=("orphans",)),
    )

    def execute(self):
        release_manager = ReleaseManager.of_params(self.params)
        wanted = {name: self.params[name] for name in ("revisions", "newer_than", "orphans", "orphans_before")}
        report = release_manager.server_once().gc(**wanted, dry_run=self.check_mode)
        for warning in report.pop("warnings", []):
            self.module.warn(warning)
        self.result.update({key: value for key, value in report.items() if key not in ("repository", "dry_run")})
        self.changed = report["condemned_objects"] > 0
        kept, gone = report["preserved_revisions"], report["condemned_revisions"]
        self.before = {"revisions": kept + gone, "garbage": report["condemned_objects"]}
        self.after = {"revisions": kept, "garbage": 0}


def main():
    GarbageCollection.main()


if __name__ == "__main__":
    main()
