# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
  diff_mode:
    description: >-
      Will return details on what has changed, or possibly needs changing in C(check_mode), when in diff mode.
  platform:
    description: Target systems the module works on.
    platforms: posix
    support: full
"""

    ACTION_GROUP = r"""
attributes:
  action_group:
    description: Use C(group/cvmfs.publishing.cvmfs) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - cvmfs.publishing.cvmfs
"""

    INFO = r"""
attributes:
  check_mode:
    support: full
    details:
      - This module does not modify state.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
"""

    UPSTREAM_ENGINE = r"""
attributes:
  upstream_engine:
    description: >-
      Works with an image that has CernVM-FS's own server tools, the upstream engine. Versions of them that are too old
      for what is asked for are refused by name.
"""
