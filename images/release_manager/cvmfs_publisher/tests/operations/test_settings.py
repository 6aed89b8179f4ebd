# SPDX-License-Identifier: GPL-3.0-or-later
"""Which configuration files count, and which commands refuse what is wrong in them."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import pytest

from cvmfs_publisher.content import Compression
from operations.managers import NAME, ReleaseManager, local_settings, make, mirror


def for_all(manager: ReleaseManager, text: str) -> Path:
    file = manager.config_dir / "server.local"
    file.write_text(text)
    return file


def test_server_local_has_the_defaults_of_all_repositories(local: ReleaseManager) -> None:
    for_all(local, "CVMFS_COMPRESSION_ALGORITHM=none\nCVMFS_AUTO_TAG=false\n")
    assert local.environment.settings(NAME).compression is Compression.NONE
    local.configure(CVMFS_AUTO_TAG="true")
    assert local.environment.settings(NAME)["CVMFS_AUTO_TAG"] == "true"
    local.server_conf.with_name("client.conf").write_text("CVMFS_AUTO_TAG=\n")
    assert local.environment.settings(NAME)["CVMFS_AUTO_TAG"] == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="uses /var/spool/cvmfs")
def test_a_new_repository_keeps_to_them_and_has_them_not(tmp_path: Path) -> None:
    manager = ReleaseManager(tmp_path / "manager", {}, f"test-{secrets.token_hex(4)}.example.org")
    storage = local_settings(tmp_path / "storage")["CVMFS_UPSTREAM_STORAGE"]
    manager.server_conf.unlink()
    for_all(manager, "CVMFS_REPOSITORY_TTL=77\nCVMFS_HASH_ALGORITHM=shake128\n")
    try:
        manager.run("mkfs", "-o", "root", "-u", storage, manager.name).succeeded()
        assert "CVMFS_REPOSITORY_TTL" not in manager.server_conf.read_text()
        assert (manager.manifest().ttl, manager.manifest().root_hash.algorithm.name) == (77, "SHA1")  # as mkfs wrote
    finally:
        shutil.rmtree(Path("/var/spool/cvmfs", manager.name), ignore_errors=True)


@pytest.mark.parametrize(("option", "key"), [("-w", "STRATUM0"), ("-V", "VOMS_AUTHZ"), ("-x", "SERVER_PROXY")])
def test_what_is_no_text_is_refused_before_anything_is_made(tmp_path: Path, option: str, key: str) -> None:
    manager = ReleaseManager(tmp_path / "manager", local_settings(tmp_path / "storage"))
    outcome = manager.server("mkfs", option, b"http://host/caf\xe9")
    assert outcome.code == 1
    assert f"CVMFS_{key}='http://host/caf\\udce9' is not printable UTF-8 text" in outcome.stderr
    assert not (tmp_path / "storage").exists()
    assert not list(manager.keys.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["gc", "-f", "-r", "0"],
        ["tag", "-a", "new"],
        ["rollback", "-f"],
        ["transaction"],
        ["publish"],
        ["ingest", "--directory", "/etc", "-b", "etc"],
        ["eliminate-hardlinks", "-f"],
        ["update-repoinfo", "-f", "META"],
    ],
    ids=lambda command: command[0],
)
def test_what_nobody_knows_is_refused_by_whatever_publishes_or_deletes(
    local: ReleaseManager, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = for_all(local, "CVMFS_GC_DELETION_LGO=/var/log/deleted\n")
    monkeypatch.chdir(tmp_path)
    Path("META").write_text("{}")
    local.refuses(command[0], *command[1:], says=["CVMFS_GC_DELETION_LGO", str(file), "Correct its name"])


def test_what_does_not_depend_on_it_works(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(make(tmp_path / "source", file="x")))
    for_all(local, "CVMFS_GC_DELETION_LGO=/var/log/deleted\n")
    for command in ("info", "check", "resign", "list-catalogs"):
        local.server(command).succeeded()


def test_client_conf_may_have_what_is_for_clients(local: ReleaseManager, tmp_path: Path) -> None:
    client_conf = local.server_conf.with_name("client.conf")
    client_conf.write_text("CVMFS_QUOTA_LIMIT=4000\n")
    local.ingest(mirror(make(tmp_path / "source", file="x")))
    client_conf.write_text("CVMFS_IGNORE_XDIR_HARDLINKS=false\n")
    local.refuses("transaction", says=["CVMFS_IGNORE_XDIR_HARDLINKS=false", str(client_conf)])
