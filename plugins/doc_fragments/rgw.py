# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - boto3, if O(endpoint) is set
options:
  command:
    description:
      - How to call C(radosgw-admin), for example in a container.
      - It is not used if O(endpoint) is set.
    type: list
    elements: str
    default: [radosgw-admin]
  endpoint:
    description:
      - The URL of a gateway. With it, the admin API is used over HTTP, and no C(radosgw-admin) is needed.
    type: str
  admin_access_key:
    description:
      - The access key of a user of the gateway with the capabilities C(users=*;buckets=*).
    type: str
  admin_secret_key:
    description:
      - The secret key of that user.
    type: str
  region:
    description:
      - The region that requests to O(endpoint) are signed for.
    type: str
    default: us-east-1
  ca_path:
    description:
      - A file with the certificate authorities that may have signed the certificate of O(endpoint), in PEM form.
    type: path
  validate_certs:
    description:
      - Whether to check the certificate of O(endpoint).
    type: bool
    default: true
"""
