# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a repository over by `import`, in both directions, and new keys for it, before the eyes of the client."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cvmfs_publisher.repository import RepositoryKey, ServerConfig

from . import sources
from .native import NativeRepository, NewNative
from .services import Bucket, Place
from .trees import read_directory
from .upstream import CONFIGURATION, CommandFailed, NewUpstream, Repository, Upstream


def import_natively(theirs: Repository, place: Place, directory: Path, *kinds: str) -> NativeRepository:
    """Let the native publisher import a repository with keys of these kinds, and nothing else known about it."""
    native = NativeRepository.at(theirs.name, theirs.url, directory / "etc")
    keychain = directory / "keychain"
    keychain.mkdir()
    for kind in kinds:
        shutil.copy(CONFIGURATION / "keys" / f"{theirs.name}.{kind}", keychain)
    storage = place.storage_of(theirs.name)
    arguments = ("-u", storage, "-k", keychain, "-w", theirs.url)
    document = native.document("import", *arguments)
    assert document["changed"]
    assert document["warnings"] == []
    assert not native.document("import", *arguments)["changed"]
    # CernVM-FS's own server is on this machine, too, and has its spool directory where both have it by default
    conf = native.config_dir / "repositories.d" / native.name / "server.conf"
    conf.write_text(conf.read_text() + f"CVMFS_SPOOL_DIR={directory}/spool\n")
    return native


@pytest.mark.parametrize(
    "options",
    [(), ("-a", "shake128", "-z"), ("-Z", "none", "-g", "-v")],
    ids=["default", "shake128", "uncompressed"],
)
def test_native_imports_what_upstream_made(
    upstream: Upstream, new_upstream: NewUpstream, place: Place, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Without the master key; what upstream's own import sets back to its defaults is kept."""
    theirs = new_upstream(place, *options)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    with theirs.publish() as mounted:
        sources.make(sources.awkward(1), mounted / "tree")
    native = import_natively(theirs, place, tmp_path, "pub", "key", "crt")
    conf = Path("repositories.d", theirs.name, "server.conf")
    ours, own = ServerConfig.load(native.config_dir / conf), ServerConfig.load(CONFIGURATION / conf)
    kept = ("HASH_ALGORITHM", "COMPRESSION_ALGORITHM", "GARBAGE_COLLECTION", "USER", "STRATUM0")
    assert {key: ours[f"CVMFS_{key}"] for key in kept} == {key: own[f"CVMFS_{key}"] for key in kept}
    assert ours["CVMFS_AUTO_TAG"] == ("false" if "-g" in options else "true")
    native.check()
    sources.make(sources.awkward(2), copy)
    assert native.mirror(copy, "tree")["revision"] == 3
    upstream.assert_shows(native, read_directory(copy), b"tree")
    theirs.check()
    with theirs.publish() as mounted:
        (mounted / "theirs").write_text("theirs")
    native.check()


def test_native_imports_with_a_new_key(
    upstream: Upstream, new_upstream: NewUpstream, bucket: Bucket, tmp_path: Path
) -> None:
    theirs = new_upstream(bucket)
    native = NativeRepository.at(theirs.name, theirs.url, tmp_path / "etc")
    keychain = tmp_path / "keychain"
    keychain.mkdir()
    for kind in ("pub", "masterkey"):
        shutil.copy(CONFIGURATION / "keys" / f"{theirs.name}.{kind}", keychain)
    storage = bucket.storage_of(theirs.name)
    native.server("import", "-t", "-r", "-u", storage, "-k", keychain, "-w", theirs.url)
    upstream.check(native)
    with upstream.mount(native) as mount:
        assert mount.attribute("revision") == "1"
    with pytest.raises(CommandFailed), theirs.publish() as mounted:
        (mounted / "stale").write_text("with a key that is not listed any more")


def test_upstream_imports_with_a_new_key(
    upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    native = new_native(bucket)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    native.mirror(copy, "tree")
    with upstream.imported(native, bucket.storage_of(native.name), native.keys, "-t") as theirs:
        assert "is not in the whitelist" in native.server("tag", "-a", "stale", expect=1)
        for kind in ("key", "crt"):
            (native.keys / f"{native.name}.{kind}").unlink()
            shutil.copy(CONFIGURATION / "keys" / f"{native.name}.{kind}", native.keys)
        sources.make(sources.awkward(2), copy)
        native.mirror(copy, "tree")
        upstream.assert_shows(native, read_directory(copy), b"tree")
        theirs.check()


def new_key(native: NativeRepository) -> None:
    key = RepositoryKey.generate(native.name)
    for kind, pem in (("key", key.private_pem()), ("crt", key.certificate.pem)):
        file = native.keys / f"{native.name}.{kind}"
        file.unlink()
        file.write_bytes(pem)


def test_a_client_follows_a_roll_over(
    upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    """A mounted client takes every revision on the way, and a new one can mount at every step."""
    native = new_native(bucket)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    with upstream.mount(native) as mounted:
        old = shutil.copytree(native.keys, tmp_path / "old")
        new_key(native)
        for step in (("resign",), ("resign", "-p"), ("resign",)):
            native.server(*step)
            upstream.check(native)
            with upstream.mount(native) as fresh:
                assert fresh.attribute("revision") == "1"
            mounted.update()
        native.mirror(copy, "tree")
        mounted.update()
        assert mounted.attribute("revision") == "2"
    upstream.assert_shows(native, read_directory(copy), b"tree")
    for kind in ("key", "crt"):
        shutil.copy(old / f"{native.name}.{kind}", native.keys / f"{native.name}.{kind}")
    assert "is not in the whitelist" in native.server("tag", "-a", "stale", expect=1)


def test_a_client_refuses_a_revision_of_a_stolen_key(upstream: Upstream, new_native: NewNative, bucket: Bucket) -> None:
    native = new_native(bucket)
    new_key(native)
    native.server("resign", "--only")
    with pytest.raises(CommandFailed), upstream.mount(native):
        pass
    native.server("resign", "-p", "-f")
    upstream.check(native)
    with upstream.mount(native) as mount:
        assert mount.attribute("revision") == "1"
