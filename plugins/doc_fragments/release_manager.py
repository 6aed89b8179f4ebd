# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - podman 4.3 or newer, or docker 20.10 or newer.
  - A host that the role P(cvmfs.publishing.release_manager#role) has prepared for the repository.
options:
  repository:
    description:
      - The fully qualified name of the repository.
    type: str
    required: true
    aliases: [fqrn]
  config_dir:
    description:
      - Where the role P(cvmfs.publishing.release_manager#role) has put the configuration of the repositories.
      - By default it is C(/etc/cvmfs-publishing) for root, and C(~/.config/cvmfs-publishing) for other users, whose
        containers are rootless.
    type: path
  progress_path:
    description:
      - A file on the host to which the progress of the release manager is written while it works.
    type: path
"""
