# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import HttpReader
from ansible_collections.cvmfs.publishing.plugins.module_utils._keys import load_private_key, public_pem
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import Whitelist, hash_is, printed
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der
from ansible_collections.cvmfs.publishing.plugins.plugin_utils._signing import SigningActionBase


class ActionModule(SigningActionBase):
    def _prepared(self, arguments, masterkey):
        path = arguments.get("src")
        if not path:
            return {}
        if masterkey:
            raise PublishingError("masterkey and src exclude each other", remedy="Give src if it is signed already.")
        try:
            with open(self._loader.path_dwim(path), "rb") as stream:
                return {"signed": [base64.b64encode(stream.read()).decode()]}
        except OSError as error:
            raise PublishingError(f"Cannot read the whitelist {path}: {error.strerror}") from None

    def _handed_over(self, signed, to_sign):
        return {"signed": signed, "replaces": to_sign["replaces"]}

    def _allowed(self, arguments, to_sign):
        signs_manifest, revokes = (boolean(arguments.get(name) or False) for name in ("sign_manifest", "revoke"))
        rolls_over = bool(to_sign["rolls_over"]) and signs_manifest and not revokes
        # Of a roll-over that nobody else's certificate is needed for, and of what was stolen, nothing stays.
        keeps = rolls_over or not (signs_manifest or revokes)
        return {**to_sign, "keep": to_sign["keep"] if keeps else [], "rolls_over": rolls_over}

    def _look_from_here(self, arguments, masterkey):
        url = arguments.get("url")
        if not url or not boolean(arguments.get("revoke") or False):
            return
        ca_path = arguments.get("ca_path")
        reader = HttpReader(url, ca_path=self._loader.path_dwim(ca_path) if ca_path else None)
        try:
            whitelist = Whitelist.parse(reader.get(".cvmfswhitelist"))
        except PublishingError as error:
            raise PublishingError(
                f"The host has put the whitelist in place, it says, which cannot be seen from here: {error.message}",
                remedy="Make sure that its .cvmfswhitelist lists the new certificate alone.",
            ) from None
        finally:
            reader.close()
        if masterkey:
            whitelist.verify([public_pem(load_private_key(str(masterkey).encode(), "master key")).decode()])
        certificate = certificate_der(str(arguments["certificate"]).encode())
        listed = whitelist.fingerprints
        if not listed or not all(hash_is(each, certificate) for each in listed):
            raise PublishingError(
                f"The host has put the whitelist in place, it says, but {url} has one that lists "
                f"{' and '.join(map(printed, listed)) or 'nothing'}",
                remedy="Is the host in somebody else's hands, or are the S3 credentials? Replace these, and run it on "
                "another host.",
            )

    def _without_key(self, fqrn):
        return PublishingError(
            f"The whitelist of {fqrn} has to be signed, which takes masterkey, or src with one that is signed already"
        )
