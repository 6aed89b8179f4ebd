#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_publish
short_description: Publish content in a CernVM-FS repository
version_added: 0.1.0
description:
  - Makes a new revision of a repository out of directories and tar files of the host, and of paths to delete.
  - Works in a transaction that M(cvmfs.publishing.cvmfs_transaction) has opened, or in one of its own.
  - The release-manager container is gone afterwards. If something fails, nothing is published. A transaction of its
    own is aborted then.
  - When nothing changes, there is no new revision.
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
      - Sources are compared with the repository, in a container that can only read.
  diff_mode:
    support: full
    details:
      - Shows the paths that are added, changed and removed.
  upstream_engine:
    support: partial
    details:
      - CernVM-FS 2.8.0 or newer publishes, and 2.8.1 or newer says in advance what would change.
      - Sources are directories then, and descriptions of tags are plain words. Hard links become separate files, as
        overlayfs has it.
options:
  content:
    description:
      - What to bring into the repository.
    type: list
    elements: dict
    default: []
    suboptions:
      source:
        description:
          - A directory of the host, or a tar file, which may be compressed with gzip, bzip2, xz or zstd.
          - With O(content[].image), a container image.
          - With O(content[].s3_prefix), a file with the settings of a bucket.
        type: path
        required: true
      base_dir:
        description:
          - The directory of the repository to bring it into. V(/) is the repository's root.
        type: str
        required: true
      mode:
        description:
          - V(mirror) makes the directory equal to the source, and removes what the source has not.
          - V(merge) leaves what the source has not.
        type: str
        choices: [mirror, merge]
        default: mirror
      nested_catalog:
        description:
          - Whether to make the directory a nested catalog.
        type: bool
        default: false
      allow_empty:
        description:
          - Whether an empty source may empty the directory.
        type: bool
        default: false
      image:
        description:
          - Whether the source is a container image, whose root directory is published. It is an OCI image layout, a tar
            file of one, or an archive of C(docker save) or C(podman save).
        type: bool
        default: false
      image_reference:
        description:
          - Which image, where O(content[].source) has several.
        type: str
      s3_prefix:
        description:
          - The source is a file of the host with S3 settings and credentials, as C(s3.conf) of CernVM-FS.
          - What its bucket has below this prefix is published; V(/) is everything. Objects become files.
        type: str
  delete:
    description:
      - Paths of the repository to remove, with all that is below them, before O(content) is brought in.
      - A path that does not exist is fine.
    type: list
    elements: str
    default: []
  tag:
    description:
      - A name for the new revision, if there is one.
    type: str
  tag_description:
    description:
      - The description of the tag.
    type: str
  transaction:
    description:
      - The ID of the transaction to publish. It ends, whether or not there was something to publish.
      - By default, the module opens a transaction of its own.
    type: str
  checksum:
    description:
      - Whether to read every file of the sources. By default, files whose size, mode, owner and modification time are
        as published are taken as unchanged.
      - What the storage has lost of these files is uploaded again.
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_transaction
  - module: cvmfs.publishing.cvmfs_verify
"""

EXAMPLES = r"""
- name: Publish a release
  cvmfs.publishing.cvmfs_publish:
    repository: software.example.org
    content:
      - source: /build/release-1.2
        base_dir: sw/1.2
    delete: [sw/0.9]
    tag: release-1.2
    tag_description: First release with plots

- name: Publish what a container image holds
  cvmfs.publishing.cvmfs_publish:
    repository: unpacked.example.org
    content:
      - source: /build/analysis.oci.tar
        image: true
        base_dir: images/analysis
"""

RETURN = r"""
revision:
  description: The newest revision. In check mode, the one that there is.
  returned: success
  type: int
previous_revision:
  description: The revision before.
  returned: success
  type: int
root_hash:
  description: The hash of the root catalog.
  returned: success
  type: str
tag:
  description: The name of the new revision.
  returned: success
  type: str
added:
  description: How many paths are new.
  returned: success
  type: int
modified:
  description: How many paths were changed.
  returned: success
  type: int
removed:
  description: How many paths were removed.
  returned: success
  type: int
paths:
  description: The first of these paths.
  returned: success
  type: dict
  contains:
    added:
      description: New paths.
      type: list
      elements: str
    modified:
      description: Changed paths.
      type: list
      elements: str
    removed:
      description: Removed paths.
      type: list
      elements: str
    truncated:
      description: Whether there are more.
      type: bool
files:
  description: How many files were read.
  returned: success, with the native engine
  type: int
bytes:
  description: How many bytes were read.
  returned: success, with the native engine
  type: int
new_objects:
  description: How many objects were written to the bucket.
  returned: success, with the native engine
  type: int
uploaded_bytes:
  description: How many bytes were written to the bucket.
  returned: success, with the native engine
  type: int
seconds:
  description: How long it took.
  returned: success
  type: float
"""

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    ARGUMENT_SPEC,
    SOURCE_DIR,
    ReleaseManager,
    source_path,
)


class Publish(PublishingModule):
    argument_spec = dict(
        content=dict(
            type="list",
            elements="dict",
            default=[],
            options=dict(
                source=dict(type="path", required=True),
                base_dir=dict(type="str", required=True),
                mode=dict(type="str", choices=["mirror", "merge"], default="mirror"),
                nested_catalog=dict(type="bool", default=False),
                allow_empty=dict(type="bool", default=False),
                image=dict(type="bool", default=False),
                image_reference=dict(type="str"),
                s3_prefix=dict(type="str"),
            ),
        ),
        delete=dict(type="list", elements="str", default=[]),
        tag=dict(type="str"),
        tag_description=dict(type="str"),
        transaction=dict(type="str"),
        checksum=dict(type="bool", default=False),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        self.sources = [source_path(item["source"]) for item in self.params["content"]]
        self.changes = change_set(self.params["delete"], self.params["content"], self.sources)
        try:
            report = self._report()
        except PublishingError as error:
            error.message = self._as_on_host(error.message)
            raise
        self.changed = report.pop("changed")
        for warning in report.pop("warnings", []):
            self.module.warn(self._as_on_host(warning))
        self.result.update(report)
        self.prepared_diff = describe_changes(report)

    def _report(self):
        if self.check_mode:
            return self._preview(self.release_manager.server_once(sources=self.sources))
        if self.params["transaction"]:
            return self._publish_transaction(self.params["transaction"])
        return self._publish_alone()

    def _as_on_host(self, text):
        """Name sources as they are on the host, and not as they are in the container."""
        for source in self.sources:
            text = text.replace(SOURCE_DIR + source, source)
        return text

    def _publish_transaction(self, identity):
        """Publish a transaction that was opened before. It stays open if this fails."""
        with self.release_manager.lock():
            current = self.release_manager.open_transaction()
        if current is None or current["id"] != identity:
            found = f"transaction {current['id']} is" if current else "none is"
            raise PublishingError(
                f"Transaction {identity} is not open on {self.release_manager.fqrn} in this host's container: {found}",
                remedy="It may have ended, or its container may be gone; open a new one.",
            )
        unseen = self.release_manager.unseen(self.sources)
        if unseen:
            raise PublishingError(
                f"The container of transaction {identity} does not see {', '.join(unseen)}",
                remedy="Name all sources when the transaction is opened.",
            )
        return self._publish(identity)

    def _publish_alone(self):
        """Publish in a transaction of its own, which does not survive a failure."""
        identity = self.release_manager.begin(sources=self.sources)["id"]
        try:
            return self._publish(identity)
        except BaseException:
            # The container releases its lease when it is told to end.
            self._leave(identity)
            raise

    def _publish(self, identity):
        server = self.release_manager.server()
        # A tag is worth a revision to cvmfs_server, even if nothing else changes; here it is a name for a revision
        # that there is.
        wants_tag = bool(self.params["tag"]) and self._preview(server)["changed"]
        report = server.publish(
            changes=self.changes,
            transaction_id=identity,
            tag=self.params["tag"] if wants_tag else None,
            tag_description=self.params["tag_description"] if wants_tag else None,
            checksum=self.params["checksum"],
        )
        self._leave(identity)
        return report

    def _leave(self, identity):
        """Remove the container. That it stays is no error: what is published is published, and what failed failed."""
        try:
            self.release_manager.leave(transaction_id=identity)
        except PublishingError as error:
            self.module.warn(str(error))

    def _preview(self, server):
        return server.publish(changes=self.changes, dry_run=True, checksum=self.params["checksum"])


def change_set(delete, content, sources):
    """Return what tells ``cvmfs_server publish`` what to do. Sources are where the container sees them."""
    changes = [{"delete": path} for path in delete]
    for item, source in zip(content, sources):
        # What is new is left out unless it is asked for: images of older releases do not know it
        given = {name: value for name, value in item.items() if value is not None and (name != "image" or value)}
        changes.append({**given, "source": SOURCE_DIR + source})
    return {"version": 1, "changes": changes}


def describe_changes(report):
    """Return the paths of a report as text: + added, ~ changed, - removed."""
    lines = []
    for sign, kind in (("+", "added"), ("~", "modified"), ("-", "removed")):
        paths = report["paths"][kind]
        lines += [f"{sign} /{path.lstrip('/')}\n" for path in paths]
        if report[kind] > len(paths):
            lines.append(f"{sign} and {report[kind] - len(paths)} more\n")
    return "".join(lines)


def main():
    Publish.main()


if __name__ == "__main__":
    main()
