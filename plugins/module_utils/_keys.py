# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key set of a repository: generate, write, and look whether the parts fit. Private to the collection.

Form and names are those that ``cvmfs_server mkfs`` gives them: RSA keys of 2048 bits and a self-signed certificate.
"""

from __future__ import annotations

import dataclasses
import datetime
import os

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID
except ImportError:
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True

SUFFIXES = ("masterkey", "pub", "key", "crt")
_MODES = {"masterkey": 0o400, "pub": 0o444, "key": 0o400, "crt": 0o444}
_BITS = 2048
_MAX_NAME = 30  # characters of a repository's name in the certificate, whose common name is limited


@dataclasses.dataclass(frozen=True)
class KeySet:
    """Each part as PEM; those that are not there are None."""

    masterkey: bytes = None
    pub: bytes = None
    key: bytes = None
    crt: bytes = None

    @classmethod
    def generate(cls, *, fqrn, days):
        """Return a new key set with a certificate that is valid for `days` days."""
        _require_cryptography()
        masterkey, key = (rsa.generate_private_key(public_exponent=65537, key_size=_BITS) for dummy in range(2))
        return cls(_private(masterkey), public_pem(masterkey), _private(key), _certificate(key, fqrn, days))

    @classmethod
    def read(cls, paths, without=()):
        """Return the key set that is in files; `paths` are by suffix. OSError, PublishingError."""
        _require_cryptography()
        parts = {}
        for suffix, path in paths.items():
            if suffix not in without and os.path.exists(path):
                with open(path, "rb") as stream:
                    parts[suffix] = stream.read()
        keys = cls(**parts)
        if "pub" in without:
            if is_vaulted(keys.masterkey):
                raise PublishingError(
                    f"The public half of the master key is missing, and {paths['masterkey']} is encrypted",
                    remedy="Decrypt it with ansible-vault until the public half is there.",
                )
            return dataclasses.replace(keys, pub=public_pem(load_private_key(keys.masterkey, "master key")))
        return keys

    def write(self, paths, suffixes):
        """Write parts into files that must not exist. OSError."""
        for suffix in suffixes:
            descriptor = os.open(paths[suffix], os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODES[suffix])
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(getattr(self, suffix))

    def fingerprint(self):
        """Return the SHA-1 fingerprint of the certificate, as a whitelist prints it. PublishingError."""
        try:
            digest = x509.load_pem_x509_certificate(self.crt).fingerprint(hashes.SHA1())  # noqa: S303 (the format's)
        except ValueError as error:
            raise PublishingError(
                f"The certificate cannot be read: {error}", remedy="It is public, and kept unencrypted, in PEM form."
            ) from None
        return digest.hex(":").upper()

    def check(self, *, fqrn):
        """Raise PublishingError if parts that belong together do not fit.

        Parts that ansible-vault has encrypted are left alone: whoever uses them finds out.
        """
        clear = {suffix: getattr(self, suffix) for suffix in SUFFIXES}
        clear = {suffix: None if is_vaulted(part) else part for suffix, part in clear.items()}
        KeySet(**clear)._check(fqrn)

    def _check(self, fqrn):
        remedy = "Restore all of them from the same backup."
        if None not in (self.masterkey, self.pub):
            public = public_pem(load_private_key(self.masterkey, "master key"))
            if public.split() != self.pub.split():
                raise PublishingError(f"{fqrn}.pub is not the public half of {fqrn}.masterkey", remedy=remedy)
        if self.crt is None:
            return
        try:
            certified = x509.load_pem_x509_certificate(self.crt).public_key()
        except ValueError as error:
            raise PublishingError(f"The certificate {fqrn}.crt cannot be read: {error}", remedy=remedy) from None
        key = load_private_key(self.key, "repository key").public_key() if self.key is not None else certified
        if certified.public_numbers() != key.public_numbers():
            raise PublishingError(f"The certificate {fqrn}.crt does not belong to {fqrn}.key", remedy=remedy)


def is_vaulted(data):
    """Whether ansible-vault has encrypted a file with that content, or None."""
    return data is not None and data.startswith(b"$ANSIBLE_VAULT;")


def _require_cryptography():
    if not HAS_CRYPTOGRAPHY:
        raise PublishingError(missing_required_lib("cryptography"))


def load_private_key(data, what):
    """Return the private key that is in PEM. PublishingError."""
    _require_cryptography()
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise PublishingError(
            f"The {what} cannot be read: {error}", remedy="Private keys in PEM form, without a password, are expected."
        ) from None


def _private(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def public_pem(key):
    """Return the public half of a private key, as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _certificate(key, fqrn, days):
    short = fqrn if len(fqrn) <= _MAX_NAME else f"{fqrn[:_MAX_NAME]}[...]"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{short} CernVM-FS Release Managers")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
