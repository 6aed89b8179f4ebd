# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repository's whitelist is, and what it should be. Private to the collection.

Certificates are in DER, and a whitelist that is lost or unreadable is None.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import ObjectMissing
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import (
    VerificationError,
    Whitelist,
    hash_is,
    printed,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der, object_key


def read(published):
    """Return the whitelist that a repository has, in bytes, or None if it has lost it. HttpError."""
    try:
        return published.get(".cvmfswhitelist")
    except ObjectMissing:
        published.manifest()  # else there is no repository
        return None


def named(data):
    """Return what tells a whitelist from any other: its SHA-256, or that there is none."""
    return hashlib.sha256(data).hexdigest() if data is not None else "none"


def parsed(data):
    """Return the whitelist, or None if it is none: what nobody can read, nobody relies on."""
    try:
        return Whitelist.parse(data) if data is not None else None
    except VerificationError:
        return None


def decoded(text):
    """Return a signed whitelist that is in Base64. PublishingError."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise PublishingError("A signed whitelist is no Base64", remedy="Leave it to the action plugin.") from None


def other_signer(published, certificate):
    """Return the certificate that the current revision says it is signed with, if it is another; or None.

    Who signs the revision again will verify it. VerificationError, HttpError.
    """
    signer = certificate_der(published.get_object(object_key(published.manifest().certificate, "X")))
    return signer if signer != certificate else None


def needed(whitelist, certificate, signer):
    """Return the fingerprints in the whitelist that have to stay, besides the certificate's own: the signer's.

    Without a certificate to sign for, they are all.
    """
    if whitelist is None:
        return []
    if certificate is None:
        return list(whitelist.fingerprints)
    return [listed for listed in whitelist.fingerprints if signer is not None and hash_is(listed, signer)]


def lists_others(whitelist, certificate, keep):
    """Whether the whitelist lacks the certificate, or has another that is not to be kept."""
    if certificate is None:
        return False
    own = [listed for listed in whitelist.fingerprints if hash_is(listed, certificate)]
    return not own or len(whitelist.fingerprints) > len(own) + len(keep)


def described(whitelist):
    """Return what a result says about a whitelist."""
    if whitelist is None:
        return {"expires": None, "fingerprints": []}
    return _description(whitelist.expires, whitelist.fingerprints)


def predicted(fingerprints, now, days):
    """Return what a result says about a whitelist that is not signed yet."""
    return _description(now + datetime.timedelta(days=days), fingerprints)


def _description(expires, fingerprints):
    return {"expires": expires.isoformat(), "fingerprints": [printed(listed) for listed in fingerprints]}
