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
  - It is signed on the controller, which needs the Python package cryptography. The host is given what was signed, and
    never the key.
  - It does not matter whether a transaction is open.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.release_manager
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
  - cvmfs.publishing.attributes.upstream_engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  upstream_engine:
    support: full
    details:
      - The image's native publisher does it, and needs no CernVM-FS at all.
options:
  masterkey:
    description:
      - The master key of the repository, in PEM form. It stays on the controller.
      - It is needed when the whitelist is to be signed, unless there is O(src).
    type: str
  src:
    description:
      - A file on the controller with a whitelist that was signed elsewhere, such as on a machine without network.
      - It is put in place if it is another than the one that is there. One that clients would refuse is refused, as is
        one that does not list the certificate of this host, or is older than the one that is there, or lists other
        certificates than that one and not only O(changes).
    version_added: 0.2.0
    type: path
  changes:
    description:
      - Fingerprints of the certificates that only one of both may list, O(src) or the whitelist that is there. Without
        them, what somebody else has dropped or added since O(src) was made stays dropped or added.
    version_added: 0.2.0
    type: list
    elements: str
    default: []
  signed:
    description:
      - The signed whitelists, in Base64. The action plugin fills it in.
    version_added: 0.2.0
    type: list
    elements: str
  replaces:
    description:
      - The SHA-256 of the whitelist that O(signed) was made from, or V(none). Another that has taken its place since is
        left alone, and the module fails. The action plugin fills it in.
    version_added: 0.2.0
    type: str
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
      - Otherwise, the certificates stay as they are. Where the whitelist is lost or unreadable, it is needed, or
        O(fallback_certificate).
    version_added: 0.2.0
    type: str
  fallback_certificate:
    description:
      - The certificate to sign for if there is no O(certificate), and the whitelist is lost or unreadable. Otherwise it
        makes no difference.
    version_added: 0.2.0
    type: str
  sign_manifest:
    description:
      - Roll the repository key over. If another certificate's key has signed the current revision, the whitelist is
        signed for both, then the revision with this host's key, then the whitelist for O(certificate) alone. Clients
        can read the repository all the time. No transaction may be open.
      - It needs O(certificate).
    version_added: 0.2.0
    type: bool
    default: false
  revoke:
    description:
      - Drop all certificates but O(certificate) at once, because the key of one of them was stolen, even that of the
        current revision. Clients refuse that revision then, until it is signed with this host's key. With
        O(sign_manifest), that is done at once. Ask for it if you know its content to be good.
      - It needs O(certificate). The controller signs for no other one then, whatever the host asks for.
    version_added: 0.2.0
    type: bool
    default: false
  url:
    description:
      - Where the controller can read the repository, a URL that ends with its name.
      - With O(revoke), the controller looks there in the end, and fails if the whitelist lists another certificate, for
        a host that was broken into need not do what it says.
    version_added: 0.2.0
    type: str
  ca_path:
    description:
      - A file of the controller with the certificate authorities that may have signed the certificate of the server in
        O(url), in PEM form.
    version_added: 0.2.0
    type: path
seealso:
  - module: cvmfs.publishing.cvmfs_repository
"""

EXAMPLES = r"""
- name: Sign the whitelist if it expires within a week
  cvmfs.publishing.cvmfs_whitelist:
    repository: software.example.org
    min_days: 7
    masterkey: "{{ lookup('ansible.builtin.file', keys_dir ~ '/software.example.org.masterkey', rstrip=false) }}"

- name: Put a whitelist in place that was signed on a machine without network
  cvmfs.publishing.cvmfs_whitelist:
    repository: software.example.org
    src: /media/usb/software.example.org.cvmfswhitelist
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
  description: Until when the whitelist is valid. In check mode, until when the one that there is, if there is one.
  returned: success
  type: str
  sample: "2026-12-24T18:00:00+00:00"
"""

import datetime

from ansible_collections.cvmfs.publishing.plugins.module_utils import _whitelist
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import DEFAULT_DAYS, Whitelist, fingerprint
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import ARGUMENT_SPEC, ReleaseManager


class WhitelistModule(PublishingModule):
    argument_spec = dict(
        masterkey=dict(type="str", no_log=True),
        src=dict(type="path"),
        changes=dict(type="list", elements="str", default=[]),
        signed=dict(type="list", elements="str"),
        replaces=dict(type="str"),
        days=dict(type="int", default=DEFAULT_DAYS),
        min_days=dict(type="int", default=14),
        certificate=dict(type="str"),
        fallback_certificate=dict(type="str"),
        sign_manifest=dict(type="bool", default=False),
        revoke=dict(type="bool", default=False),
        url=dict(type="str"),
        ca_path=dict(type="path"),
        **ARGUMENT_SPEC,
    )
    module_options = dict(
        mutually_exclusive=[("src", "certificate")],
        required_if=[("sign_manifest", True, ("certificate",)), ("revoke", True, ("certificate",))],
    )

    def execute(self):
        self.release_manager = ReleaseManager.of_params(self.params)
        self.signed = [_whitelist.decoded(text) for text in self.params["signed"] or ()]
        data = _whitelist.read(self.release_manager.published())
        before = _whitelist.parsed(data)
        text = self.params["certificate"] or (self.params["fallback_certificate"] if before is None else None)
        self.certificate = certificate_der(text.encode()) if text else None
        self.after = self.before = _whitelist.described(before)
        if self.params["src"] is not None:
            self.result["manifest_signed"] = False
            self._ensure_uploaded(data)
        else:
            self._ensure_signed(data, before)
        if self.check_mode or "to_sign" in self.result:
            self.result.update(self.before)
        else:
            self.after = _whitelist.described(_whitelist.parsed(_whitelist.read(self.release_manager.published())))
            self.result.update(self.after)

    def _ensure_uploaded(self, data):
        (wanted,) = self.signed
        whitelist = Whitelist.parse(wanted)
        whitelist.verify([self.release_manager.public_key()])
        if wanted != data:
            self.after = _whitelist.described(whitelist)
            self._upload(wanted, changes=self.params["changes"])

    def _ensure_signed(self, data, before):
        now = datetime.datetime.now(datetime.timezone.utc)
        revokes = self.params["revoke"]
        # A thief's revision may name a certificate that cannot be read: that must not be in the way of dropping it.
        needs_signer = self.certificate is not None and (self.params["sign_manifest"] or not revokes)
        signer = _whitelist.other_signer(self.release_manager.published(), self.certificate) if needs_signer else None
        self.result["manifest_signed"] = signs_manifest = self.params["sign_manifest"] and signer is not None
        rolls_over = signs_manifest and not revokes
        is_due = before is None or before.expires - now < datetime.timedelta(days=self.params["min_days"])
        keep = _whitelist.needed(before, self.certificate, None if revokes else signer)
        if rolls_over or is_due or _whitelist.lists_others(before, self.certificate, keep):
            own = [fingerprint(self.certificate, self.release_manager.hash_suffix())] if self.certificate else []
            self.after = _whitelist.predicted([*own, *([] if rolls_over else keep)], now, self.params["days"])
            if not self.signed:
                self._ask_for_signature(data, keep, rolls_over)
                return
            self._put_in_place(rolls_over)
        if signs_manifest and revokes:
            self._sign_manifest()

    @trigger_change
    def _ask_for_signature(self, data, keep, rolls_over):
        """Leave it to the action plugin, on the controller, to sign, and to call again."""
        to_sign = self.release_manager.whitelist_to_sign(data or b"", keep, rolls_over)
        self.result["to_sign"] = {**to_sign, "replaces": _whitelist.named(data)}

    def _put_in_place(self, rolls_over):
        if len(self.signed) != (2 if rolls_over else 1):
            raise PublishingError(
                f"{self.release_manager.fqrn} was published with another key meanwhile", remedy="Run it again."
            )
        self._upload(self.signed[0], replaces=self.params["replaces"])
        if rolls_over:
            self.release_manager.server_once().resign_manifest()
            self._upload(self.signed[1], replaces=_whitelist.named(self.signed[0]))

    @trigger_change
    @skip_if_check_mode
    def _sign_manifest(self):
        """Sign a revision that clients refuse, as its certificate was dropped."""
        self.release_manager.server_once().resign_manifest(force=True)

    @trigger_change
    @skip_if_check_mode
    def _upload(self, data, **follows):
        self.release_manager.server_once().upload_whitelist(data=data, **follows)


def main():
    WhitelistModule.main()


if __name__ == "__main__":
    main()
