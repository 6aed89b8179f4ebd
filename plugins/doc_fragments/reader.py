# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  repository:
    description:
      - The fully qualified name that the repository must have.
      - On a host that the role P(cvmfs.publishing.release_manager#role) has prepared, it is enough to find the rest.
    type: str
    aliases: [fqrn]
  url:
    description:
      - The URL of the repository, which ends with its name.
      - By default it is what the configuration of the host says.
    type: str
  public_keys:
    description:
      - The public halves of the master keys to trust, in PEM form.
      - If O(url) is not given, the default is the key in the configuration of the host.
    type: list
    elements: str
    default: []
  config_dir:
    description:
      - Where the role P(cvmfs.publishing.release_manager#role) has put the configuration of the repositories.
      - By default it is C(/etc/cvmfs-publishing) for root, and C(~/.config/cvmfs-publishing) for other users.
    type: path
  ca_path:
    description:
      - A file with the certificate authorities that may have signed the server's certificate, in PEM form.
      - If O(url) is not given, the default is the one in the configuration of the host.
    type: path
  validate_certs:
    description:
      - Whether to check the server's certificate.
    type: bool
    default: true
"""
