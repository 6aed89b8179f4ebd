# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sign whitelists on the controller, where the master key is; it goes no further. Private to the collection.

A module says what is to be signed, with what it has read from the storage, and runs again with what was signed. Its
host is not trusted: name, life time and new certificate are the task's, as is whether others may stay, and these are
those of a whitelist that the same key has signed before.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._keys import load_private_key, public_pem
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import (
    ALGORITHMS,
    DEFAULT_DAYS,
    VerificationError,
    Whitelist,
    digest,
    fingerprint,
    printed,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der

try:
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
except ImportError:
    CAN_SIGN = False
else:
    CAN_SIGN = True

_TIME = "%Y%m%d%H%M%S"


class SigningActionBase(ActionBase):
    """Runs the module of the same name without the master key, signs what it asks for, and runs it with that."""

    _supports_check_mode = True

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        """Run the module on the host."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        masterkey = arguments.pop("masterkey", None)
        try:
            arguments.update(self._prepared(arguments, masterkey))
            found = self._module(arguments, task_vars)
            to_sign = found.pop("to_sign", None)
            if to_sign is not None and not found.get("failed") and not self._task.check_mode:
                signed = self._sign(arguments, masterkey, to_sign)
                found = self._module({**arguments, **self._handed_over(signed, to_sign)}, task_vars)
            if not found.get("failed") and not self._task.check_mode:
                self._look_from_here(arguments, masterkey)
        except PublishingError as error:
            found = {"failed": True, "msg": str(error)}
        result.update(found)
        return result

    def _prepared(self, arguments: dict[str, t.Any], masterkey: t.Optional[str]) -> dict[str, t.Any]:
        """Return further arguments of the module. PublishingError."""
        return {}

    def _handed_over(self, signed: list[str], to_sign: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return the arguments by which the module is given signed whitelists, in Base64, for what it asked."""
        raise NotImplementedError

    def _allowed(self, arguments: dict[str, t.Any], to_sign: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return what the module asks for, as far as the task wants it: here, no certificate but the task's own."""
        return {**to_sign, "keep": [], "rolls_over": False}

    def _look_from_here(self, arguments: dict[str, t.Any], masterkey: t.Optional[str]) -> None:
        """Look from the controller whether the host has done what it says. PublishingError."""

    def _without_key(self, fqrn: str) -> PublishingError:
        """Return what is said if there is no master key, but something to sign."""
        raise NotImplementedError

    def _module(self, arguments, task_vars):
        return self._execute_module(module_name=self._task.action, module_args=arguments, task_vars=task_vars)

    def _sign(self, arguments, masterkey, to_sign):
        fqrn = arguments.get("repository") or arguments["fqrn"]
        if not masterkey:
            raise self._without_key(fqrn)
        to_sign = self._allowed(arguments, to_sign)
        certificate = arguments.get("certificate")
        if not certificate and not to_sign["keep"]:
            certificate = arguments.get("fallback_certificate")
        signed = sign_whitelists(
            masterkey=str(masterkey),
            fqrn=fqrn,
            days=int(arguments.get("days") or DEFAULT_DAYS),
            certificate=certificate_der(str(certificate).encode()) if certificate else None,
            to_sign=to_sign,
        )
        return [base64.b64encode(data).decode() for data in signed]


def sign_whitelists(*, masterkey, fqrn, days, certificate, to_sign):
    """Return the whitelists that a module has asked for. PublishingError.

    `masterkey` is in PEM form, and `certificate`, which is to be listed first, in DER. `to_sign` has the suffix of the
    hash `algorithm`, the whitelist that is there, in Base64, as `current`, the fingerprints in it to `keep`, and
    whether the certificate `rolls_over`: then there are two, without the others in the second one.
    """
    key = _master_key(masterkey)
    algorithm = to_sign["algorithm"]
    if algorithm not in ALGORITHMS:
        raise PublishingError(f"The host asks for an unknown hash algorithm: {algorithm}")
    listed = _listed(to_sign["current"], key, fqrn) if to_sign["keep"] else ()
    own = [fingerprint(certificate, algorithm)] if certificate is not None else []
    kept = [other for other in listed if other in to_sign["keep"] and other not in own]
    if not own and not kept:
        raise PublishingError(
            f"There is no whitelist of {fqrn} that says for which certificate to sign", remedy="Give the certificate."
        )
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    expires = now + datetime.timedelta(days=days)
    head = [now.strftime(_TIME), f"E{expires:{_TIME}}", f"N{fqrn}"]
    wanted = [own + kept, own] if to_sign["rolls_over"] else [own + kept]
    return [_signed(key, head, fingerprints) for fingerprints in wanted]


def _master_key(text):
    if not CAN_SIGN:
        raise PublishingError(
            "The controller's Python package cryptography is missing, or too old to sign whitelists",
            remedy="Install version 47 or newer: pip install -r requirements/controller.txt",
        )
    key = load_private_key(text.encode(), "master key")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PublishingError("The master key is no RSA key", remedy="CernVM-FS signs with RSA only.")
    return key


def _listed(current, key, fqrn):
    """Return the fingerprints of the whitelist that is there, which this key has to have signed."""
    try:
        whitelist = Whitelist.parse(base64.b64decode(current))
    except (TypeError, binascii.Error):
        raise PublishingError("The host has given no whitelist back") from None
    try:
        whitelist.verify([public_pem(key).decode()])
    except VerificationError as error:
        raise PublishingError(
            f"The whitelist of {fqrn} was not signed by this master key: {error.message}",
            remedy="Use the repository's own master key; clients trust no other.",
        ) from None
    if whitelist.repository != fqrn:
        raise PublishingError(f"The whitelist is that of {whitelist.repository}, not of {fqrn}")
    return whitelist.fingerprints


def _signed(key, head, fingerprints):
    """Return the document for ``.cvmfswhitelist``, hashed as its fingerprints are."""
    lines = [*head, *(printed(listed) for listed in fingerprints)]
    text = "".join(line + "\n" for line in lines).encode()
    algorithm = "".join(fingerprints[0].partition("-")[1:])
    to_sign = (digest(text, algorithm) + algorithm).encode()
    return text + b"--\n" + to_sign + b"\n" + key.sign(to_sign, padding.PKCS1v15(), NoDigestInfo())
