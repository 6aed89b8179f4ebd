# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and signatures.

A repository has two key pairs. The master key signs the whitelist, and its public half is what clients are given.
The repository key signs the manifest; the whitelist lists the fingerprint of its certificate. Formats are those of
CernVM-FS's ``SignatureManager`` and of ``create_cert`` and ``create_master_key`` in ``cvmfs_server``.

Nothing here ever prints a private key.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.x509.oid import NameOID

from ..content import HashAlgorithm
from ..errors import ConfigurationError, PublisherError, SignatureError
from .document import RESTORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .lease import Lease
    from .manifest import Manifest

_BITS = 2048
_CERTIFICATE_DAYS = 365  # CernVM-FS does not look at the validity; this is what its own tools write
_COMMON_NAME_CUT = 30


class MasterKey:
    """The key that signs whitelists."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, file: Path) -> MasterKey:
        """Read a master key.

        :raises ConfigurationError: when the file is missing, or holds something else
        """
        return cls(_load_private_key(file, "master key"))

    @classmethod
    def generate(cls) -> MasterKey:
        """Make a new master key."""
        return cls(_generate())

    def sign(self, hash_text: bytes) -> bytes:
        """Return the signature of a whitelist: the printed hash itself, padded and encrypted, without digest."""
        return self._key.sign(hash_text, padding.PKCS1v15(), NoDigestInfo())

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        return self._key.public_key()

    def private_pem(self) -> bytes:
        """Return what is written to ``<repository>.masterkey``. Secret."""
        return _private_pem(self._key)

    def public_pem(self) -> bytes:
        """Return what is written to ``<repository>.pub``, for clients."""
        return public_pem(self.public_key)


class RepositoryKey:
    """The key that signs manifests, with its certificate.

    :raises ConfigurationError: when they do not belong together
    """

    def __init__(self, key: rsa.RSAPrivateKey, certificate: Certificate) -> None:
        if key.public_key() != certificate.public_key:
            raise ConfigurationError(
                "The repository key does not belong to the certificate",
                remedy="Use the .key and .crt files that were made together",
            )
        self._key = key
        self.certificate = certificate

    @classmethod
    def load(cls, key_file: Path, certificate_file: Path) -> RepositoryKey:
        """Read a repository key and its certificate.

        :raises ConfigurationError: when a file is missing or holds something else, or they do not fit
        """
        key = _load_private_key(key_file, "repository key")
        certificate = Certificate.load(certificate_file)
        try:
            return cls(key, certificate)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"The key in {key_file} does not belong to the certificate in {certificate_file}",
                remedy=error.remedy,
            ) from None

    @classmethod
    def generate(cls, repository: str) -> RepositoryKey:
        """Make a new repository key, and a self-signed certificate for it."""
        key = _generate()
        cut = repository
        if len(repository) > _COMMON_NAME_CUT:
            cut = repository[:_COMMON_NAME_CUT] + "[...]"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cut} CernVM-FS Release Managers")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=_CERTIFICATE_DAYS))
            .sign(key, hashes.SHA256())
        )
        return cls(key, Certificate(certificate.public_bytes(serialization.Encoding.PEM)))

    def sign(self, hash_text: bytes) -> bytes:
        """Return the signature of a manifest: RSA with SHA-1, as all clients expect."""
        return self._key.sign(hash_text, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303

    def sign_manifest(self, manifest: Manifest, lease: Lease | None) -> bytes:  # noqa: ARG002
        """Return the document for ``.cvmfspublished``; see `Signer`."""
        return manifest.signed(self)

    def session(self) -> str:
        """Return the session token of those who make a repository with this key. Secret, and always the same."""
        return hashlib.sha256(self.private_pem()).hexdigest()

    def private_pem(self) -> bytes:
        """Return what is written to ``<repository>.key``. Secret."""
        return _private_pem(self._key)


class Signer(Protocol):
    """What signs a repository's manifests: its key, or a service that has the key."""

    @property
    def certificate(self) -> Certificate:
        """The certificate of the key."""
        ...

    def sign_manifest(self, manifest: Manifest, lease: Lease | None) -> bytes:
        """Return the document for ``.cvmfspublished``.

        :param lease: under which it is going to be committed
        """
        ...


class Certificate:
    """A repository's certificate.

    :param pem: as in the file, and in the object of the repository
    :ivar made: when it was made, by its own account
    :raises SignatureError: when it is none
    """

    def __init__(self, pem: bytes) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError:
            raise SignatureError("There is no PEM certificate", remedy=RESTORE) from None
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise SignatureError("The certificate has no RSA key", remedy="CernVM-FS signs with RSA only")
        self.pem = pem
        self.public_key = key
        self.made = certificate.not_valid_before_utc
        self._der = certificate.public_bytes(serialization.Encoding.DER)

    @classmethod
    def load(cls, file: Path) -> Certificate:
        """Read a certificate.

        :raises ConfigurationError: when the file is missing, or holds something else
        """
        try:
            return cls(_read(file, "certificate"))
        except SignatureError as error:
            raise ConfigurationError(
                f"{file} holds no certificate ({error.message})",
                remedy="Put the repository's PEM certificate there",
            ) from None

    def fingerprint(self, algorithm: HashAlgorithm = HashAlgorithm.SHA1) -> str:
        """Return the fingerprint as whitelists print it, e.g. ``04:AF:…`` or ``04:AF:…-RMD160``."""
        return algorithm.digest(self._der).hex(":").upper() + algorithm.suffix.upper()

    def verify(self, hash_text: bytes, signature: bytes) -> bool:
        """Say whether this is the repository key's signature of `hash_text`."""
        try:
            self.public_key.verify(signature, hash_text, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
        except InvalidSignature:
            return False
        return True


def verify_master(keys: Iterable[rsa.RSAPublicKey], hash_text: bytes, signature: bytes) -> bool:
    """Say whether one of the master keys signed `hash_text`."""
    for key in keys:
        with contextlib.suppress(InvalidSignature):
            if key.recover_data_from_signature(signature, padding.PKCS1v15(), None) == hash_text:
                return True
    return False


def load_public_keys(files: Sequence[Path]) -> tuple[rsa.RSAPublicKey, ...]:
    """Read the public halves of master keys.

    :raises ConfigurationError: when one is missing, or there is something else in its file
    """
    return tuple(_load_public_key(file) for file in files)


def public_pem(key: rsa.RSAPublicKey) -> bytes:
    """Return a public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_key_file(file: Path, pem: bytes, *, secret: bool) -> None:
    """Write a key in one step, so that there never is half a key, nor a readable one.

    :param secret: mode 0400 rather than 0444
    :raises ConfigurationError: when there is another key in such a file already: keys are never overwritten
    :raises PublisherError: when it cannot be written
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(descriptor, "wb") as stream:
                stream.write(pem)
                stream.flush()
                os.fchmod(descriptor, 0o400 if secret else 0o444)
                os.fsync(descriptor)
            os.link(temporary, file)  # unlike a rename, fails when there is one
        finally:
            os.unlink(temporary)
    except FileExistsError:
        with contextlib.suppress(OSError):
            if file.read_bytes() == pem:  # by a mkfs that went no further
                return
        raise ConfigurationError(
            f"{file} exists already", remedy="Move it away if it is not this repository's; keys are not overwritten"
        ) from None
    except OSError as error:
        raise PublisherError(
            f"Cannot write {file}: {error.strerror}", remedy="Make room, and let the user write there"
        ) from error


def _generate() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=_BITS)


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"There is no {what} {file}", remedy="Provide the file, e.g. as a secret") from None
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the {what} {file}: {error.strerror}", remedy="Let the publisher's user read it"
        ) from None


def _load_private_key(file: Path, what: str) -> rsa.RSAPrivateKey:
    pem = _read(file, what)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigurationError(
            f"The {what} {file} is protected by a passphrase",
            remedy="Remove that with 'openssl rsa', and keep the file itself secret",
        ) from None
    except ValueError:
        kind = "a certificate" if b"BEGIN CERT" in pem else "a public key" if b"PUBLIC KEY" in pem else "something else"
        raise ConfigurationError(
            f"The {what} {file} is no private key in PEM form but {kind}", remedy="Put the private key there"
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError(f"The {what} {file} is no RSA key", remedy="CernVM-FS signs with RSA only")
    return key


def _load_public_key(file: Path) -> rsa.RSAPublicKey:
    pem = _read(file, "public key")
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        raise ConfigurationError(
            f"{file} holds no public key in PEM form", remedy="Put the public half of the master key there"
        ) from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise ConfigurationError(f"{file} holds no RSA key", remedy="CernVM-FS signs with RSA only")
    return key
