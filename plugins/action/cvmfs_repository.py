# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.plugin_utils._signing import SigningActionBase


class ActionModule(SigningActionBase):
    def _handed_over(self, signed, to_sign):
        return {"whitelist": signed[0]}

    def _without_key(self, fqrn):
        return PublishingError(f"Repository {fqrn} does not exist, and cannot be created without masterkey")
