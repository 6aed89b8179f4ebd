# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests, whitelists and their signatures, on what CernVM-FS's own tools have written."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Callable

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _manifest, _reader, _rsa
from conftest import FIXTURE_NAME
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

UTC = datetime.UTC


@pytest.fixture
def manifest(upstream_repository: pathlib.Path) -> bytes:
    return (upstream_repository / ".cvmfspublished").read_bytes()


@pytest.fixture
def whitelist(upstream_repository: pathlib.Path) -> bytes:
    return (upstream_repository / ".cvmfswhitelist").read_bytes()


@pytest.fixture
def certificate(upstream_repository: pathlib.Path, manifest: bytes) -> bytes:
    key = _reader.object_key(_manifest.Manifest.parse(manifest).certificate, "X")
    return _reader.certificate_der(_reader.unpack(key, (upstream_repository / key).read_bytes()))


class TestManifest:
    def test_fields(self, manifest: bytes) -> None:
        found = _manifest.Manifest.parse(manifest)
        assert (found.repository, found.revision, found.ttl) == (FIXTURE_NAME, 2, 240)
        assert found.root_hash == "f9ceb892c13bf5df6f5c53b21ffb2bf2b5350f8e"
        assert found.root_size == 57344
        assert found.history == "64a736bdb9365d1280eaf64d4666e5cb30a8251b"
        assert found.reflog == "3320a10ffba4f38caa41dc285d341ecf3c649261"
        assert not found.garbage_collectable

    def test_signature(self, manifest: bytes, certificate: bytes) -> None:
        _manifest.Manifest.parse(manifest).verify(certificate)

    def test_a_changed_field_shows(self, manifest: bytes, certificate: bytes) -> None:
        changed = _manifest.Manifest.parse(manifest.replace(b"\nS2\n", b"\nS3\n"))
        with pytest.raises(_manifest.VerificationError, match="does not match its own hash"):
            changed.verify(certificate)

    def test_a_changed_field_with_a_new_hash_shows(self, manifest: bytes, certificate: bytes) -> None:
        head, _separator, tail = manifest.replace(b"\nS2\n", b"\nS3\n").partition(b"\n--\n")
        forged = head + b"\n--\n" + _manifest.digest(head + b"\n").encode() + tail[40:]
        with pytest.raises(_manifest.VerificationError, match="not signed by the repository's certificate"):
            _manifest.Manifest.parse(forged).verify(certificate)

    @pytest.mark.parametrize("size", [0, 1, 30, 200, 300])
    def test_cut_short(self, manifest: bytes, certificate: bytes, size: int) -> None:
        with pytest.raises(_manifest.VerificationError):
            _manifest.Manifest.parse(manifest[:size]).verify(certificate)

    @pytest.mark.parametrize("field", ["C", "S", "D"])
    def test_a_field_that_must_be_there(self, manifest: bytes, field: str) -> None:
        lines = [line for line in manifest.split(b"\n") if not line.startswith(field.encode())]
        with pytest.raises(_manifest.VerificationError, match=f"has no field {field}"):
            _manifest.Manifest.parse(b"\n".join(lines))

    def test_a_number_that_is_none(self, manifest: bytes) -> None:
        with pytest.raises(_manifest.VerificationError, match="malformed"):
            _manifest.Manifest.parse(manifest.replace(b"\nS2\n", b"\nSx\n"))


class TestWhitelist:
    def test_fields(self, whitelist: bytes) -> None:
        found = _manifest.Whitelist.parse(whitelist)
        assert found.repository == FIXTURE_NAME
        assert found.created == datetime.datetime(2026, 11, 23, 12, 45, 15, tzinfo=UTC)
        assert found.expires == datetime.datetime(2126, 10, 30, 12, 45, 15, tzinfo=UTC)
        assert found.fingerprints == ("a2eaa5a69853123afb81d9e28bd508cce81b8fc6",)

    def test_signature(self, whitelist: bytes, upstream_key: str) -> None:
        _manifest.Whitelist.parse(whitelist).verify([upstream_key])

    def test_one_key_of_several_is_enough(self, whitelist: bytes, upstream_key: str) -> None:
        _manifest.Whitelist.parse(whitelist).verify([_pem(_new_key()), upstream_key])

    def test_another_key(self, whitelist: bytes) -> None:
        with pytest.raises(_manifest.VerificationError, match="not signed by the master key"):
            _manifest.Whitelist.parse(whitelist).verify([_pem(_new_key())])

    def test_no_key(self, whitelist: bytes) -> None:
        with pytest.raises(_manifest.VerificationError, match="The public key cannot be read"):
            _manifest.Whitelist.parse(whitelist).verify(["garbage"])

    def test_a_later_date_shows(self, whitelist: bytes, upstream_key: str) -> None:
        with pytest.raises(_manifest.VerificationError, match="does not match its own hash"):
            _manifest.Whitelist.parse(whitelist.replace(b"E2126", b"E2127")).verify([upstream_key])

    def test_which_certificates_may_sign(self, whitelist: bytes, certificate: bytes) -> None:
        found = _manifest.Whitelist.parse(whitelist)
        assert found.lists(certificate)
        assert not found.lists(certificate + b"x")

    @pytest.mark.parametrize(
        ("now", "expired"),
        [
            (datetime.datetime(2126, 10, 30, 11, 59, 59, tzinfo=UTC), False),
            (datetime.datetime(2126, 10, 30, 12, 0, 0, tzinfo=UTC), True),  # clients compare whole hours
            (datetime.datetime(2127, 1, 1, 0, 0, 0, tzinfo=UTC), True),
        ],
    )
    def test_expiry(self, whitelist: bytes, now: datetime.datetime, expired: bool) -> None:
        assert _manifest.Whitelist.parse(whitelist).is_expired(now) is expired

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace(b"\nE2126", b"\nX2126"),
            lambda text: text.replace(b"\nNfixture", b"\nfixture"),
            lambda text: b"yesterday\n" + text.partition(b"\n")[2],
            lambda text: text.replace(b"\n--\n", b"\n"),
        ],
        ids=["no expiry", "no name", "no date", "no signature"],
    )
    def test_malformed(self, whitelist: bytes, change: Callable[[bytes], bytes]) -> None:
        with pytest.raises(_manifest.VerificationError):
            _manifest.Whitelist.parse(change(whitelist))

    def test_comments_beside_fingerprints(self, whitelist: bytes) -> None:
        lines = whitelist.replace(b":8F:C6\n", b":8F:C6 # the new one\n")
        assert _manifest.Whitelist.parse(lines).fingerprints == ("a2eaa5a69853123afb81d9e28bd508cce81b8fc6",)


class TestRsa:
    """The project's own verification, against signatures of the cryptography package."""

    @pytest.mark.parametrize("bits", [2048, 3072])
    def test_sha1(self, bits: int) -> None:
        key = _new_key(bits)
        signature = key.sign(b"text", padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 (it is CernVM-FS's)
        public = _rsa.PublicKey.from_pem(_pem(key))
        assert public.verify_sha1(signature, b"text")
        assert not public.verify_sha1(signature, b"other text")
        assert not public.verify_raw(signature, b"text")
        assert not public.verify_sha1(signature[:-1] + bytes([signature[-1] ^ 1]), b"text")

    @pytest.mark.parametrize("signature", [b"", b"\x00" * 256, b"\xff" * 256, b"\x00" * 255, b"\x00" * 257])
    def test_what_is_no_signature(self, signature: bytes) -> None:
        public = _rsa.PublicKey.from_pem(_pem(_new_key()))
        assert not public.verify_sha1(signature, b"text")
        assert not public.verify_raw(signature, b"text")
        assert not public.verify_raw(signature, b"x" * 300)

    def test_a_certificate_has_the_key_of_its_owner(self, certificate: bytes) -> None:
        from cryptography import x509

        numbers = x509.load_der_x509_certificate(certificate).public_key().public_numbers()
        public = _rsa.PublicKey.from_certificate(certificate)
        assert (public.modulus, public.exponent) == (numbers.n, numbers.e)

    @pytest.mark.parametrize("size", [0, 1, 4, 100, 400])
    def test_a_certificate_that_is_cut_short(self, manifest: bytes, certificate: bytes, size: int) -> None:
        with pytest.raises(_manifest.VerificationError, match="The certificate cannot be read"):
            _manifest.Manifest.parse(manifest).verify(certificate[:size])


@pytest.mark.parametrize(
    ("data", "printed"),
    [
        (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"", "7f9c2ba4e88f827d616045507605853ed73b8093-shake128"),
    ],
)
def test_hashes(data: bytes, printed: str) -> None:
    assert _manifest.hash_is(printed, data)
    assert not _manifest.hash_is(printed, data + b"x")
    assert not _manifest.hash_is(printed[1:], data)


def _new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _pem(key: rsa.RSAPrivateKey) -> str:
    encoding = serialization.Encoding.PEM
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
