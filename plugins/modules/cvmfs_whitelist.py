#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_whitelist
short_description: Sign the whitelist of a CernVM-FS repository in time
version_added: 0.1.0
description:
  - Signs the whitelist of a repository again with the master key, when it would expire soon. Clients refuse a
    repository whose whitelist has expired.
  - It does not matter whether a transaction is open.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.release_manager
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  masterkey:
    description:
      - The master key of the repository, in PEM form. It is on the host only while the whitelist is signed.
    type: str
    required: true
  days:
    description:
      - How long a new whitelist is valid. The longer, the longer a stolen repository key can be used.
    type: int
    default: 30
  min_days:
    description:
      - A whitelist that is valid for more than so many days is left as it is.
    type: int
    default: 14
  certificate:
    description:
      - The certificate of the repository key that this host signs with, in PEM form.
      - If it is given, the whitelist is also signed when it does not list this certificate, and when it lists others
        that are not needed any more. The certificate of the current revision stays in it.
    type: str
  sign_manifest:
    description:
      - Roll the repository key over. If another certificate's key has signed the current revision, the whitelist is
        signed for both, then the revision with this host's key, then the whitelist for O(certificate) alone. Clients
        can read the repository all the time. No transaction may be open.
      - It needs O(certificate).
    type: bool
    default: false
  revoke:
    description:
      - Drop all certificates but O(certificate) at once, because the key of one of them was stolen, even that of the
        current revision. Clients refuse that revision then, until it is signed with this host's key. With
        O(sign_manifest), that is done at once. Ask for it if you know its content to be good.
      - It needs O(certificate).
    type: bool
    default: false
seealso:
  - module: cvmfs.publishing.cvmfs_repository
"""

EXAMPLES = r"""
- name: Sign the whitelist if it expires within a week
  cvmfs.publishing.cvmfs_whitelist:
    repository: software.example.org
    min_days: 7
    masterkey: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.masterkey', rstrip=false) }}"
  no_log: true
  vars:
    ansible_pipelining: true
"""

RETURN = r"""
fingerprints:
  description: The fingerprints of the certificates that may sign. In check mode, those before.
  returned: success
  type: list
  elements: str
  sample: [32:D8:F4:16:8F:31:F7:92:12:8B:8F:D4:21:DF:DD:4C:FC:F1:0C:13]
manifest_signed:
  description: Whether the current revision was signed again, or would be.
  returned: success
  type: bool
expires:
  description: Until when the whitelist is valid. In check mode, until when the one that there is.
  returned: success
  type: str
  sample: "2026-12-24T18:00:00+00:00"
"""

import datetime

from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der, object_key
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class WhitelistModule(PublishingModule):
    argument_spec = dict(
        masterkey=dict(type="str", required=True, no_log=True),
        days=dict(type="int", default=30),
        min_days=dict(type="int", default=14),
        certificate=dict(type="str"),
        sign_manifest=dict(type="bool", default=False),
        revoke=dict(type="bool", default=False),
        **ARGUMENT_SPEC,
    )
    module_options = dict(
        required_if=[("sign_manifest", True, ("certificate",)), ("revoke", True, ("certificate",))],
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        text = self.params["certificate"]
        self.certificate = certificate_der(text.encode()) if text is not None else None
        before = self._whitelist()
        self.before = self._describe(before)
        now = datetime.datetime.now(datetime.timezone.utc)
        self.result["manifest_signed"] = rolls_over = self.params["sign_manifest"] and self._other_signer()
        is_due = before.expires - now < datetime.timedelta(days=self.params["min_days"])
        revokes = self.params["revoke"]
        if rolls_over and not revokes:
            self._roll_over()
        elif is_due or self._lists_others(before):
            self._resign(only=revokes)
        if rolls_over and revokes:
            self._sign_manifest()
        after = before if self.check_mode else self._whitelist()
        self.after = self._describe(after)
        if self.check_mode and self.changed:
            self.after["expires"] = (now + datetime.timedelta(days=self.params["days"])).isoformat()
        self.result.update(expires=after.expires.isoformat(), fingerprints=self._describe(after)["fingerprints"])

    def _whitelist(self):
        return self.release_manager.published().whitelist()

    @staticmethod
    def _describe(whitelist):
        return {"expires": whitelist.expires.isoformat(), "fingerprints": [_printed(f) for f in whitelist.fingerprints]}

    def _lists_others(self, whitelist):
        """Whether the whitelist lacks the certificate, or has another that is of no use any more."""
        if self.certificate is None:
            return False
        needed = 1 if self.params["revoke"] or not self._other_signer() else 2
        return not whitelist.lists(self.certificate) or len(whitelist.fingerprints) > needed

    def _other_signer(self):
        """Whether the current revision says that it is signed with another certificate: who signs will verify it."""
        published = self.release_manager.published()
        pem = published.get_object(object_key(published.manifest().certificate, "X"))
        return certificate_der(pem) != self.certificate

    @trigger_change
    @skip_if_check_mode
    def _roll_over(self):
        with self.release_manager.masterkey(self.params["masterkey"], warn=self.module.warn) as secret:
            server = self.release_manager.server_once(extra_secrets=secret)
            server.resign(days=self.params["days"])
            server.resign_manifest()
            server.resign(days=self.params["days"])

    @trigger_change
    @skip_if_check_mode
    def _sign_manifest(self):
        """Sign a revision that clients refuse, as its certificate was dropped."""
        self.release_manager.server_once().resign_manifest(force=True)

    @trigger_change
    @skip_if_check_mode
    def _resign(self, *, only):
        with self.release_manager.masterkey(self.params["masterkey"], warn=self.module.warn) as secret:
            self.release_manager.server_once(extra_secrets=secret).resign(days=self.params["days"], only=only)


def _printed(fingerprint):
    """The form in which whitelists and openssl print it."""
    digits, dash, algorithm = fingerprint.upper().partition("-")
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)) + dash + algorithm


def main():
    WhitelistModule.main()


if __name__ == "__main__":
    main()
