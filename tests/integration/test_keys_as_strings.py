# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that are not files of the controller: given as strings, here out of a file that ansible-vault has encrypted."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .conftest import Site, running_site

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
    assert not sealed.keys.exists()


def test_half_a_set_of_keys_is_refused(sealed: Site) -> None:
    run = sealed.play(
        str(sealed.directory / "hosts"), cvmfs_keys={sealed.repository: {"pub": "x", "masterkey": "y"}}
    ).expect(2)
    assert f"The keys of {sealed.repository} that are given as strings must be pub, crt and key" in run.output
    assert "A master key belongs into cvmfs_masterkeys" in run.output
