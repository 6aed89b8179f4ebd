# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys come from HashiCorp Vault to the engine's secrets by the lookups that docs/security.md shows, and by no file."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

import pytest
import yaml

from .conftest import ROOT, Site, running_site
from .plays import secret_names
from .test_secrets import secrets_directory, watched
from .vault import Vault, running_vault

pytestmark = pytest.mark.extended

KINDS = {"pub": "pub", "crt": "crt", "key": "key", "s3_conf": "s3.conf"}
PUBLISHER, SIGNER = "hvs.publisher", "hvs.signer"


@dataclasses.dataclass
class Vaulted:
    """A site whose keys are in Vault and nowhere else, not even among the engine's secrets."""

    site: Site
    vault: Vault
    monkeypatch: pytest.MonkeyPatch
    needles: list[str]
    "What tells the secrets: a line of each private key, and the S3 key."

    def token(self, token: str) -> None:
        """Have this one in the environment of what runs from now on."""
        self.monkeypatch.setenv("VAULT_TOKEN", token)

    def leaks(self, text: str) -> list[str]:
        return [needle for needle in self.needles if needle in text]


def documented(repository: str) -> dict[str, object]:
    """The variables that the guide shows, for this repository."""
    text = (ROOT / "docs" / "security.md").read_text()
    (block,) = re.findall(r"```yaml\n(# group_vars/all.yml; pip install hvac.*?)```", text, re.DOTALL)
    variables: dict[str, object] = yaml.safe_load(block.replace("software.example.org", repository))
    assert variables.keys() == {"cvmfs_keys", "cvmfs_masterkeys"}
    return variables


@pytest.fixture
def vaulted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vaulted]:
    """Let the role make keys and repository, and move the keys to Vault then."""
    with running_vault() as vault, running_site(tmp_path / "site", "podman") as site:
        name, needles = site.repository, site.secrets()
        vault.secrets[f"cvmfs/{name}"] = {
            kind: (site.keys / f"{name}.{suffix}").read_text() for kind, suffix in KINDS.items()
        }
        vault.secrets[f"cvmfs-master/{name}"] = {"masterkey": (site.keys / f"{name}.masterkey").read_text()}
        vault.tokens = {PUBLISHER: "cvmfs/", SIGNER: "cvmfs"}
        moved = site.keys.rename(tmp_path / "moved")
        site.module("cvmfs_secret", repository=name, state="absent")
        site.write_inventory(ansible_remote_tmp=str(tmp_path / "remote"), **documented(name))
        monkeypatch.setenv("VAULT_ADDR", vault.url)
        (site.directory / "hosts.yml").write_text(
            json.dumps([{"hosts": "release_managers", "roles": ["cvmfs.publishing.release_manager"]}])
        )
        yield Vaulted(site, vault, monkeypatch, needles)
        moved.rename(site.keys)  # for cleaning up


def test_keys_reach_the_engine_and_no_file(vaulted: Vaulted, tmp_path: pathlib.Path, source: pathlib.Path) -> None:
    site, hosts = vaulted.site, str(vaulted.site.directory / "hosts")
    vaulted.token(PUBLISHER)
    assert secret_names(site) == []
    with watched(secrets_directory(site)) as stored, watched(tmp_path / "remote") as brought:
        run = site.play(hosts, "-vvv", "--diff").expect()
        assert len(secret_names(site)) == 3
        assert site.play(hosts).expect().changed == 0
        site.publish(source, "sw").expect()
        site.play("verify", repository=site.repository, source=str(source), base_dir="sw").expect()
    assert vaulted.leaks(run.output) == []
    masterkey = vaulted.vault.secrets[f"cvmfs-master/{site.repository}"]["masterkey"]
    for needle in vaulted.needles:
        assert any(needle in text for text in stored) == (needle not in masterkey)
    assert brought
    assert [text for text in brought if vaulted.leaks(text)] == []
    files = [path for path in site.directory.rglob("*") if path.is_file() and "collections" not in path.parts]
    assert [path for path in files if vaulted.leaks(path.read_text(errors="replace"))] == []
    assert not site.keys.exists()
    # Publishing has no use for the master key, and a token that may not read it
    assert {path for path, _status in vaulted.vault.read} == {f"cvmfs/{site.repository}"}


def test_the_master_key_is_for_another_token(vaulted: Vaulted) -> None:
    site = vaulted.site
    vaulted.token(PUBLISHER)
    site.play(str(site.directory / "hosts")).expect()
    before = site.manager("cvmfs_repository_info")["whitelist"]
    refused = site.play("resign", min_days=40, days=60).expect(2)
    assert "Forbidden" in refused.output
    assert (f"cvmfs-master/{site.repository}", 403) in vaulted.vault.read
    assert site.manager("cvmfs_repository_info")["whitelist"] == before
    vaulted.token(SIGNER)
    run = site.play("resign", "-vvv", min_days=40, days=60).expect()
    assert run.changed == 1
    assert vaulted.leaks(run.output) == []
    assert site.manager("cvmfs_repository_info")["whitelist"]["expires"] > before["expires"]
    assert not site.keys.exists()


def test_what_vault_does_not_give_is_said(vaulted: Vaulted) -> None:
    site, hosts = vaulted.site, str(vaulted.site.directory / "hosts")
    vaulted.token("hvs.of-last-year")
    assert "Forbidden" in site.play(hosts).expect(2).output
    vaulted.token(PUBLISHER)
    vaulted.vault.secrets.clear()
    assert "Invalid or missing path" in site.play(hosts).expect(2).output
    assert secret_names(site) == []
    assert not site.keys.exists()  # and none were made
