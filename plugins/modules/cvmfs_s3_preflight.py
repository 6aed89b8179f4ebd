#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_s3_preflight
short_description: Prove that an S3 bucket is good for publishing, and measure it
version_added: 0.2.0
description:
  - Proves with probe objects, which it removes again, that the service honours C(If-None-Match) and C(If-Match) on
    C(PUT), on which concurrent release managers rely; that everybody can read; that what does not exist answers 404;
    and that nobody can write without credentials.
  - Measures how many small objects a second the service takes, and how long a small C(GET) takes. Where Ceph RGW runs
    without C(tcp_nodelay=1), which makes clients whose caches are cold many times slower, it says so.
  - Use the credentials that release managers use.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.s3
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: partial
    details:
      - Nothing is proved or measured in check mode, as probe objects would be written.
  diff_mode:
    support: none
options:
  bucket:
    description:
      - The name of the bucket.
    type: str
    required: true
    aliases: [name]
  prefix:
    description:
      - Below which prefix of keys to write. For credentials that may not write elsewhere, that is
        the repository's name.
    type: str
    default: ''
  public_read:
    description:
      - Whether everybody should be able to read. If V(false), nobody should.
    type: bool
    default: true
  confined:
    description:
      - Whether the credentials must be good for nothing but O(prefix). Those that may change the bucket's policy,
        create buckets, or write to the bucket beside O(prefix) are refused then.
    type: bool
    default: false
  measure:
    description:
      - Whether to measure. It writes some hundred objects of 4 KiB, and takes a second or two.
    type: bool
    default: true
seealso:
  - module: cvmfs.publishing.cvmfs_s3_bucket
"""

EXAMPLES = r"""
- name: Is the storage good for publishing?
  cvmfs.publishing.cvmfs_s3_preflight:
    endpoint: https://s3.example.org
    bucket: software
    prefix: software.example.org
    access_key: "{{ software_access_key }}"
    secret_key: "{{ software_secret_key }}"
  register: preflight
"""

RETURN = r"""
conditional_writes:
  description: Whether C(If-None-Match) and C(If-Match) are honoured on C(PUT). Where they are not, the module fails.
  returned: not in check mode
  type: bool
etag_form:
  description: How the service wants the ETag of C(If-Match), V(quoted) or V(unquoted).
  returned: not in check mode
  type: str
anonymous_read:
  description: Whether everybody can read.
  returned: not in check mode
  type: bool
confined:
  description: Whether the credentials are good for nothing but the prefix.
  returned: not in check mode
  type: bool
put_rate:
  description: How many objects of 4 KiB the service took in a second, on 16 connections.
  returned: O(measure=true), but not in check mode
  type: float
  sample: 640.5
get_latency_ms:
  description: How long a C(GET) of 512 bytes takes on a connection that is kept alive, in milliseconds. It is a median.
  returned: O(measure=true), but not in check mode
  type: float
  sample: 0.8
get_latency_new_connection_ms:
  description: How long it takes on a new connection, in milliseconds.
  returned: O(measure=true), but not in check mode
  type: float
  sample: 1.4
advice:
  description: What should be changed in the service, and how. These are warnings, too.
  returned: O(measure=true), but not in check mode
  type: list
  elements: str
"""

import statistics

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import PublishingModule
from ansible_collections.cvmfs.publishing.plugins.module_utils._preflight import Preflight, nodelay_advice
from ansible_collections.cvmfs.publishing.plugins.module_utils._s3 import ARGUMENT_SPEC, Bucket


class S3Preflight(PublishingModule):
    argument_spec = dict(
        bucket=dict(type="str", required=True, aliases=["name"]),
        prefix=dict(type="str", default=""),
        public_read=dict(type="bool", default=True),
        confined=dict(type="bool", default=False),
        measure=dict(type="bool", default=True),
        **ARGUMENT_SPEC,
    )

    def execute(self):
        if self.check_mode:
            return
        bucket = Bucket(name=self.params["bucket"], **{name: self.params[name] for name in ARGUMENT_SPEC})
        public_read = self.params["public_read"]
        self.preflight = Preflight(bucket, prefix=self.params["prefix"], public_read=public_read)
        etag_form = self.preflight.prove()
        self.result.update(conditional_writes=True, etag_form=etag_form, anonymous_read=public_read)
        self.result["confined"] = self.preflight.is_confined()
        if self.params["confined"] and not self.result["confined"]:
            raise PublishingError(
                f"The credentials {self.params['access_key']} may do more with {bucket.endpoint} than write to "
                f"{bucket.name}/{self.params['prefix']}",
                remedy="Use those of a user without buckets, to whom the bucket's policy grants the prefix.",
            )
        if self.params["measure"]:
            self._measure()

    def _measure(self):
        kept, new = self.preflight.get_latencies()
        self.result.update(
            put_rate=round(self.preflight.put_rate(), 1),
            get_latency_ms=round(1000 * statistics.median(kept), 2),
            get_latency_new_connection_ms=round(1000 * statistics.median(new), 2),
            advice=nodelay_advice(kept, new),
        )
        for advice in self.result["advice"]:
            self.module.warn(advice)


def main():
    S3Preflight.main()


if __name__ == "__main__":
    main()
