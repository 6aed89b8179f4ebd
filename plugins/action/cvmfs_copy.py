# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.cvmfs.publishing.plugins.plugin_utils._progress import ProgressActionBase


class ActionModule(ProgressActionBase):
    pass
