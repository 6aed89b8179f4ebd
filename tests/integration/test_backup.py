# SPDX-License-Identifier: GPL-3.0-or-later
"""What was backed up comes back: keys that were lost, and a bucket that was lost. What is there is not overwritten."""

from __future__ import annotations

import pathlib
import re
import shutil
import stat
from collections.abc import Iterator

import pytest

from .conftest import Site, running_site
from .plays import Bucket

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose keys and bucket are lost now and then. Its whitelist lists no SHA-1 fingerprints."""
    server = {"CVMFS_HASH_ALGORITHM": "shake128"}
    with running_site(tmp_path_factory.mktemp("site"), "podman", server=server) as site:
        yield site


@pytest.fixture(scope="module")
def backup_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the backups are."""
    return tmp_path_factory.mktemp("backup")


def test_where_to(site: Site) -> None:
    assert "Say where to put the backup" in site.play("backup").expect(2).output
    assert "Say where the backup is" in site.play("restore").expect(2).output


def test_keys(site: Site, backup_dir: pathlib.Path) -> None:
    assert site.play("backup", "--check", backup_dir=str(backup_dir)).expect().changed > 0
    assert not list(backup_dir.iterdir())
    run = site.play("backup", "--check", "--diff", backup_dir=str(backup_dir)).expect()
    assert "+cvmfs_repositories:" in run.output  # diffs are shown, but those of keys
    assert [secret for secret in site.secrets() if secret in run.output] == []
    assert site.play("backup", backup_dir=str(backup_dir)).expect().changed > 0
    assert site.play("backup", backup_dir=str(backup_dir)).expect().changed == 0
    kept = backup_dir / site.repository
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    private = [kept / f"{site.repository}.{suffix}" for suffix in ("masterkey", "key", "s3.conf")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o400] * 3
    assert site.repository in (kept / "repository.yml").read_text()


def test_a_key_that_clients_do_not_trust_is_no_backup(site: Site, backup_dir: pathlib.Path) -> None:
    (site.keys / "mine").mkdir()
    own = [site.keys / f"{site.repository}.{suffix}" for suffix in ("key", "crt")]
    for path in own:
        shutil.copy(path, site.keys / "mine")
    keys = {"repository": site.repository, "directory": str(site.keys)}
    site.module("cvmfs_keys", replaces=site.module("cvmfs_keys", **keys)["fingerprint"], **keys)
    try:
        run = site.play("backup", backup_dir=f"{backup_dir}-2").expect(2)
        assert "does not list the certificate" in run.output
        run = site.play("restore", backup_dir=str(backup_dir)).expect(2)
        assert "is another than the one in" in run.output
    finally:
        for path in own:
            path.unlink()
            shutil.copy(site.keys / "mine" / path.name, path)


def test_lost_keys_come_back(site: Site, backup_dir: pathlib.Path, source: pathlib.Path) -> None:
    before = {path.name: path.read_bytes() for path in site.keys.iterdir() if path.is_file()}
    secrets = site.secrets()
    shutil.rmtree(site.keys)
    for options in (["--check", "--diff"], ["--diff"]):
        run = site.play("restore", *options, backup_dir=str(backup_dir))
        assert [secret for secret in secrets if secret in run.output] == []
    run.expect()
    after = {path.name: path.read_bytes() for path in site.keys.iterdir()}
    assert after == {name: data for name, data in before.items() if name in after}
    assert f"{site.repository}.masterkey" in after
    assert site.play("restore", backup_dir=str(backup_dir)).expect().changed == 0
    site.publish(source, "sw/1.0").expect()


def test_a_lost_whitelist_is_made_anew(site: Site) -> None:
    """So is one that is none."""
    before = site.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
    Bucket(site).remove(".cvmfswhitelist")
    assert site.play("resign", "--check").expect().changed == 1
    assert site.play("resign").expect().changed == 1
    assert site.play("resign").expect().changed == 0
    Bucket(site).put(".cvmfswhitelist", b"20261130120000\nE2027")
    assert site.play("resign").expect().changed == 1
    assert site.manager("cvmfs_repository_info")["whitelist"]["fingerprints"] == before


def test_what_is_to_be_absent_is_left_out(site: Site, backup_dir: pathlib.Path) -> None:
    s3 = {"endpoint": site.endpoint, "bucket": "gone"}
    entries = {
        site.repository: {"s3": {**s3, "bucket": site.repository}, "server": site.server},
        "gone.example.org": {"s3": s3, "state": "absent"},
    }
    site.write_inventory(cvmfs_repositories=entries)
    try:
        for playbook in ("backup", "restore"):
            run = site.play(playbook, backup_dir=str(backup_dir)).expect()
            assert site.repository in run.output
            assert "gone.example.org:" not in run.output
        assert run.changed == 0
    finally:
        site.write_inventory()
    assert not list(site.keys.glob("gone.example.org.*"))


def test_what_is_to_be_imported_is_left_out(site: Site, backup_dir: pathlib.Path) -> None:
    s3 = {"endpoint": site.endpoint, "bucket": "awaited"}
    entries = {
        "awaited.example.org": {"s3": s3, "create": False, "server": {"CVMFS_GARBAGE_COLLECTION": True}},
        site.repository: {"s3": {**s3, "bucket": site.repository}},
    }
    site.write_inventory(cvmfs_repositories=entries)
    try:
        for playbook in ("backup", "restore", "resign", "check"):
            assert site.repository in site.play(playbook, backup_dir=str(backup_dir)).expect().output
        site.play("gc").expect()
    finally:
        site.write_inventory()


def test_one_that_fails_does_not_keep_others_from_being_backed_up(site: Site, tmp_path: pathlib.Path) -> None:
    s3 = {"endpoint": site.endpoint, "bucket": "lost"}
    ours = {"s3": {**s3, "bucket": site.repository}}
    site.write_inventory(cvmfs_repositories={"lost.example.org": {"s3": s3}, site.repository: ours})
    try:
        run = site.play("backup", backup_dir=str(tmp_path)).expect(2)
    finally:
        site.write_inventory()
    assert "has no keys of lost.example.org" in run.output
    assert "There is no whole backup of lost.example.org." in run.output
    assert (tmp_path / site.repository / "repository.yml").exists()


def test_a_lost_bucket_comes_back(
    site: Site, backup_dir: pathlib.Path, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    site.publish(source, "sw/1.0", tag="v1").expect()
    (source / "more").write_text("more")
    site.publish(source, "sw/1.0").expect()
    places = {"backup_dir": str(backup_dir), "bucket_dir": str(tmp_path / "buckets")}
    site.play("backup", "--check", **places).expect()
    assert site.play("backup", **places).expect().changed > 0
    assert site.play("backup", **places).expect().changed == 0
    revision, before = site.revision(), Bucket(site).objects(lease=False)
    wanted = {"repository": site.repository, "state": "absent", "confirm": site.repository}
    site.play("repository", **wanted).expect()
    assert "does not exist" in site.play("restore", backup_dir=str(backup_dir)).expect(2).output
    # The repository key was replaced since the copy was made, and backed up
    keys = {"repository": site.repository, "directory": str(site.keys)}
    site.module("cvmfs_keys", replaces=site.module("cvmfs_keys", **keys)["fingerprint"], **keys)
    places["backup_dir"] = str(tmp_path / "newer")
    shutil.copytree(site.keys, tmp_path / "newer" / site.repository)
    run = site.play("restore", **places).expect(2)
    assert "The copy is from before the key was replaced, and clients trust that one again." in run.output
    assert site.revision() == revision
    ours = f"{site.repository}/"
    after = Bucket(site).objects(lease=False)

    def published(keys: set[str]) -> set[str]:
        return {key for key in keys if key.startswith(ours) and not key.startswith(f"{ours}stats/")}

    assert published(set(after)) == published(set(before))
    (old,) = set(re.findall(r"-e replaces=([0-9a-z-]+)", run.output))
    rotation = {"repository": site.repository, "replaces": old, "stolen": True, "trust_content": True}
    site.play("rotate_keys", **rotation).expect()
    assert site.play("restore", backup_dir=places["backup_dir"]).expect().changed == 0
    site.verify(source, "sw/1.0").expect()
    site.play("check", integrity=True).expect()
    site.play("rollback", repository=site.repository, tag="v1").expect()
    # Meanwhile published to: it is not taken back to what it was
    assert "add --overwrite" in site.play("restore", **places).expect(2).output
    assert site.revision() == revision + 1
