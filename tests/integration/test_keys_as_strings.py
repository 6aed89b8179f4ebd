# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that are not files of the controller: given as strings, here out of a file that ansible-vault has encrypted."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .conftest import RADOSGW_ADMIN, Site, running_site

pytestmark = pytest.mark.extended


@pytest.fixture
def sealed(tmp_path: pathlib.Path) -> Iterator[Site]:
    """A site whose keys have moved into an encrypted file."""
    with running_site(tmp_path, "podman") as site:
        name, kinds = site.repository, {"pub": "pub", "crt": "crt", "key": "key", "s3_conf": "s3.conf"}
        keys = {kind: (site.keys / f"{name}.{suffix}").read_text() for kind, suffix in kinds.items()}
        masterkey = (site.keys / f"{name}.masterkey").read_text()
        vault = tmp_path / "vault.yml"
        vault.write_text(json.dumps({"vault_keys": {name: keys}, "vault_masterkeys": {name: masterkey}}))
        (tmp_path / "password").write_text("correct horse\n")
        encrypt = [pathlib.Path(sys.executable).parent / "ansible-vault", "encrypt", vault]
        subprocess.run([*encrypt, "--vault-password-file", tmp_path / "password"], check=True, capture_output=True)
        site.write_inventory(cvmfs_keys="{{ vault_keys }}", cvmfs_masterkeys="{{ vault_masterkeys }}")
        moved = site.keys.rename(tmp_path / "moved")
        (tmp_path / "hosts.yml").write_text(
            json.dumps([{"hosts": "release_managers", "roles": ["cvmfs.publishing.release_manager"]}])
        )
        yield site
        moved.rename(site.keys)  # for cleaning up


def test_the_playbooks_need_no_files(sealed: Site, source: pathlib.Path) -> None:
    options = ("--vault-password-file", "password", "--extra-vars", "@vault.yml")
    assert sealed.play(str(sealed.directory / "hosts"), *options).expect().changed == 0
    before = sealed.revision()
    sealed.publish(source, "sw", *options).expect()
    assert sealed.revision() == before + 1
    sealed.play("verify", *options, repository=sealed.repository, source=str(source), base_dir="sw").expect()
    assert sealed.play("resign", *options, min_days=40, days=60).expect().changed == 1
    kept, copies = sealed.directory / "backup", sealed.directory / "copies"
    run = sealed.play("backup", *options, backup_dir=str(kept), bucket_dir=str(copies)).expect()
    assert f"{sealed.repository}: what the inventory says, and revision {before + 1} with" in run.output
    assert "is in the backup, without what is in cvmfs_keys and cvmfs_masterkeys: back that up" in run.output
    assert [path.name for path in kept.rglob("*") if path.is_file()] == ["repository.yml"]
    assert sealed.play("restore", *options, backup_dir=str(kept)).expect().changed == 0
    assert not sealed.keys.exists()


def test_credentials_that_are_not_those_of_the_storage(sealed: Site) -> None:
    options = ("--vault-password-file", "password", "--extra-vars", "@vault.yml")
    wrong = "{{ vault_keys[item].s3_conf | regex_replace('(SECRET_KEY=)', '\\\\1x') }}"
    changed = {sealed.repository: {"s3_conf": wrong.replace("item", f"'{sealed.repository}'")}}
    run = sealed.play("storage", *options, cvmfs_keys=changed).expect(2)
    assert "given for CVMFS_S3_SECRET_KEY. See to it where it is kept" in run.output
    assert not sealed.keys.exists()


def test_new_credentials_come_from_where_they_are_kept(sealed: Site, source: pathlib.Path) -> None:
    options = ("--vault-password-file", "password", "--extra-vars", "@vault.yml")
    user = f"--uid=cvmfs-{sealed.repository}-publisher"

    def administer(*arguments: str) -> list[dict[str, str]]:
        done = subprocess.run([*RADOSGW_ADMIN, *arguments, user], check=True, capture_output=True)
        return json.loads(done.stdout)["keys"]

    (old,) = administer("user", "info")
    rotation = {"repository": sealed.repository, "replaces": old["access_key"]}
    asked = sealed.play("rotate_s3_keys", *options, repository=sealed.repository).expect(2)
    assert f"That of {sealed.repository} is {old['access_key']}" in asked.output
    refused = sealed.play("rotate_s3_keys", *options, **rotation).expect(2)
    assert "Make a second key, with `radosgw-admin key create --uid=" in " ".join(refused.output.split())
    assert administer("user", "info") == [old]

    keys = administer("key", "create", "--key-type=s3", "--gen-access-key", "--gen-secret")
    (new,) = (key for key in keys if key["access_key"] != old["access_key"])
    conf = "{{ vault_keys['R'].s3_conf | replace('OLD_KEY', 'NEW_KEY') | replace('OLD_SECRET', 'NEW_SECRET') }}"
    for name, value in {
        "R": sealed.repository,
        "OLD_KEY": old["access_key"],
        "NEW_KEY": new["access_key"],
        "OLD_SECRET": old["secret_key"],
        "NEW_SECRET": new["secret_key"],
    }.items():
        conf = conf.replace(f"'{name}'", f"'{value}'")
    given = {kind: f"{{{{ vault_keys['{sealed.repository}'].{kind} }}}}" for kind in ("pub", "crt", "key")}
    sealed.write_inventory(cvmfs_keys={sealed.repository: {**given, "s3_conf": conf}})
    sealed.play("rotate_s3_keys", *options, **rotation).expect()
    assert [key["access_key"] for key in administer("user", "info")] == [new["access_key"]]
    assert sealed.play("rotate_s3_keys", *options, **rotation).expect().changed == 0
    sealed.publish(source, "sw", *options).expect()
    assert not sealed.keys.exists()


def test_half_a_set_of_keys_is_refused(sealed: Site) -> None:
    run = sealed.play(
        str(sealed.directory / "hosts"), cvmfs_keys={sealed.repository: {"pub": "x", "masterkey": "y"}}
    ).expect(2)
    assert f"The keys of {sealed.repository} that are given as strings must be pub, crt and key" in run.output
    assert "A master key belongs into cvmfs_masterkeys" in run.output
