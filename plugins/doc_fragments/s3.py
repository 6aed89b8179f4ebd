# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - boto3
options:
  endpoint:
    description:
      - The URL of the S3 service, without a bucket.
    type: str
    required: true
  access_key:
    description:
      - The access key of the bucket's owner.
    type: str
    required: true
  secret_key:
    description:
      - The secret key of the bucket's owner.
    type: str
    required: true
  region:
    description:
      - The region that requests are signed for.
    type: str
    default: us-east-1
  dns_buckets:
    description:
      - Whether the bucket is a part of the host name (V(true)) or of the path (V(false)).
      - It is C(CVMFS_S3_DNS_BUCKETS) of the release managers' configuration.
    type: bool
    default: false
  ca_path:
    description:
      - A file with the certificate authorities that may have signed the service's certificate, in PEM form.
    type: path
  validate_certs:
    description:
      - Whether to check the service's certificate.
    type: bool
    default: true
"""
