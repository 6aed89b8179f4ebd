#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_verify
short_description: Verify a CernVM-FS repository as a stranger
version_added: 0.1.0
description:
  - Reads a repository over anonymous HTTP, trusting nothing but the public half of its master key. It verifies the
    whitelist and its date, the certificate, the manifest's signature, every catalog with its counters, and the hash of
    every object.
  - Then it compares the tree with what was to be published, path by path and bit for bit.
  - It shares no code with the publisher.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.reader
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.info
  - cvmfs.publishing.attributes.action_group
options:
  content:
    description:
      - What to compare the tree with.
    type: list
    elements: dict
    default: []
    suboptions:
      source:
        description:
          - A directory or tar file of this host.
        type: path
        required: true
      base_dir:
        description:
          - The directory of the repository that it was published in. V(/) is the repository's root.
        type: str
        required: true
      mode:
        description:
          - Whether the directory may have nothing that the source has not (V(mirror)), or may (V(merge)).
        type: str
        choices: [mirror, merge]
        default: mirror
      owner:
        description:
          - V(keep) expects the owners that the source has, V(ignore) any, and C(UID:GID) those numbers everywhere.
        type: str
        default: ignore
  fail_on_difference:
    description:
      - Whether a difference or a damaged object is an error.
    type: bool
    default: true
  max_differences:
    description:
      - How many differences to return.
    type: int
    default: 1000
  progress_path:
    description:
      - A file on the host to which the progress is written.
    type: path
seealso:
  - module: cvmfs.publishing.cvmfs_publish
"""

EXAMPLES = r"""
- name: Verify a repository, and that it has what was built
  cvmfs.publishing.cvmfs_verify:
    url: https://s3.example.org/software/software.example.org
    public_keys: ["{{ lookup('ansible.builtin.file', 'software.example.org.pub') }}"]
    content:
      - source: /build/release-1.2
        base_dir: sw/1.2
"""

RETURN = r"""
revision:
  description: The revision that was verified.
  returned: always
  type: int
root_hash:
  description: The hash of its root catalog.
  returned: always
  type: str
whitelist_expires:
  description: Until when clients trust the repository, if its whitelist is not signed again.
  returned: always
  type: str
catalogs:
  description: How many catalogs were checked.
  returned: always
  type: int
entries:
  description: How many files, directories and links the revision has.
  returned: always
  type: int
objects:
  description: How many objects were read and checked. Each is read once.
  returned: always
  type: int
stored_bytes:
  description: How many bytes were read.
  returned: always
  type: int
content_bytes:
  description: How many bytes these are when decompressed.
  returned: always
  type: int
compared:
  description: How many paths of sources were compared.
  returned: always
  type: int
difference_count:
  description: How many differences and damaged objects there are.
  returned: always
  type: int
differences:
  description: The first of them.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The path in the repository.
      type: str
    difference:
      description: What is wrong with it.
      type: str
  sample:
    - path: /sw/1.2/bin/tool
      difference: has mode 0644 and in the source 0755
seconds:
  description: How long it took.
  returned: always
  type: float
"""

import time

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    READER_ARGUMENT_SPEC,
    reader_options,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._verify import (
    Comparison,
    ProgressLine,
    Verifier,
    describe,
)


class Verify(PublishingModule):
    argument_spec = dict(
        content=dict(
            type="list",
            elements="dict",
            default=[],
            options=dict(
                source=dict(type="path", required=True),
                base_dir=dict(type="str", required=True),
                mode=dict(type="str", choices=["mirror", "merge"], default="mirror"),
                owner=dict(type="str", default="ignore"),
            ),
        ),
        fail_on_difference=dict(type="bool", default=True),
        max_differences=dict(type="int", default=1000),
        progress_path=dict(type="path"),
        **READER_ARGUMENT_SPEC,
    )
    module_options = dict(required_one_of=[("url", "repository")])

    def execute(self):
        comparisons = [_comparison(item) for item in self.params["content"]]
        begin = time.monotonic()
        options = reader_options(self.params)
        if not options["public_keys"]:
            raise PublishingError("There is no public key to trust", remedy="Give public_keys.")
        verifier = Verifier(progress=ProgressLine(self.params["progress_path"]), **options)
        report = verifier.verify(comparisons)
        for warning in report.warnings:
            self.module.warn(warning)
        differences = report.differences
        self.result.update(
            revision=report.revision,
            root_hash=report.root_hash,
            whitelist_expires=report.whitelist_expires,
            catalogs=report.catalogs,
            entries=report.entries,
            objects=report.objects,
            stored_bytes=report.stored_bytes,
            content_bytes=report.content_bytes,
            compared=report.compared,
            difference_count=len(differences),
            differences=describe(differences, self.params["max_differences"]),
            seconds=round(time.monotonic() - begin, 1),
        )
        if differences and self.params["fail_on_difference"]:
            first = "; ".join(f"{item['path']} {item['difference']}" for item in self.result["differences"][:3])
            raise PublishingError(
                f"{options['url']} is not what it should be in {len(differences)} places: {first}",
                remedy="All of them are in differences.",
            )


def _comparison(item):
    base_dir = item["base_dir"].strip("/").encode("utf-8", "surrogateescape")
    return Comparison(
        source=item["source"], base_dir=base_dir, mirror=item["mode"] == "mirror", owner=_owner(item["owner"])
    )


def _owner(text):
    """Return what the owner that the source has becomes, or None if that does not matter."""
    if text in ("keep", "ignore"):
        return (lambda *owner: owner) if text == "keep" else None
    uid, separator, gid = text.partition(":")
    if not (separator and uid.isdecimal() and gid.isdecimal()):
        raise PublishingError(f"{text} is no owner", remedy="Write keep, ignore, or numbers as in 1000:1000.")
    return lambda *dummy: (int(uid), int(gid))


def main():
    Verify.main()


if __name__ == "__main__":
    main()
