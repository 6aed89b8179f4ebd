# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys are generated once, fit together, and are never overwritten."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.cvmfs.publishing.plugins.modules import cvmfs_keys

NAME = "software.example.org"
FILES = [f"{NAME}.{suffix}" for suffix in ("masterkey", "pub", "key", "crt")]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "keys"


@pytest.fixture
def run(directory: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run_module(**parameters: Any) -> dict[str, Any]:
        arguments = {"repository": NAME, "directory": str(directory), **parameters}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            cvmfs_keys.main()
        return json.loads(capfd.readouterr().out)

    return run_module


def test_a_new_set(run: Run, directory: pathlib.Path) -> None:
    result = run()
    assert result["changed"]
    assert result["created"] == FILES
    assert result["masterkey_present"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == dict(zip(FILES, (0o400, 0o444, 0o400, 0o444), strict=True))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_set_that_is_there_stays(run: Run, directory: pathlib.Path) -> None:
    run()
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    result = run()
    assert (result["changed"], result["created"]) == (False, [])
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_check_mode_predicts_and_writes_nothing(run: Run, directory: pathlib.Path) -> None:
    result = run(_ansible_check_mode=True)
    assert result["changed"]
    assert not directory.exists()


def test_openssl_agrees_that_the_parts_fit(run: Run, directory: pathlib.Path) -> None:
    run()

    def openssl(*arguments: str) -> str:
        return subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout

    assert openssl("rsa", "-in", f"{NAME}.masterkey", "-pubout") == (directory / f"{NAME}.pub").read_text()
    certified = openssl("x509", "-in", f"{NAME}.crt", "-noout", "-pubkey")
    assert openssl("rsa", "-in", f"{NAME}.key", "-pubout") == certified
    subject = openssl("x509", "-in", f"{NAME}.crt", "-noout", "-subject")
    assert f"{NAME} CernVM-FS Release Managers" in subject


def test_without_the_master_key_one_can_publish(run: Run, directory: pathlib.Path) -> None:
    run()
    (directory / f"{NAME}.masterkey").unlink()
    result = run()
    assert (result["changed"], result["masterkey_present"]) == (False, False)


def test_the_public_key_is_made_from_the_master_key(run: Run, directory: pathlib.Path) -> None:
    run()
    public = directory / f"{NAME}.pub"
    before = public.read_bytes()
    public.unlink()
    result = run()
    assert result["created"] == [f"{NAME}.pub"]
    assert public.read_bytes() == before


@pytest.mark.parametrize("lost", [("key",), ("crt",), ("key", "crt"), ("masterkey", "pub"), ("pub", "key")])
def test_an_incomplete_set_is_refused_and_left(run: Run, directory: pathlib.Path, lost: tuple[str, ...]) -> None:
    run()
    for suffix in lost:
        (directory / f"{NAME}.{suffix}").unlink()
    before = sorted(path.name for path in directory.iterdir())
    result = run()
    assert result["failed"]
    assert f"there is no {NAME}.{lost[0]}" in result["msg"]
    assert "Restore them from the backup" in result["msg"]
    assert sorted(path.name for path in directory.iterdir()) == before


@pytest.mark.parametrize(
    ("suffix", "message"), [("pub", "is not the public half"), ("crt", "does not belong"), ("key", "does not belong")]
)
def test_parts_of_another_set_are_refused(
    run: Run, directory: pathlib.Path, tmp_path: pathlib.Path, suffix: str, message: str
) -> None:
    run()
    run(directory=str(tmp_path / "other"))
    os.unlink(directory / f"{NAME}.{suffix}")
    shutil.copy(tmp_path / "other" / f"{NAME}.{suffix}", directory)
    result = run()
    assert result["failed"]
    assert message in result["msg"]


def test_what_is_no_key(run: Run, directory: pathlib.Path) -> None:
    run()
    (directory / f"{NAME}.key").unlink()
    (directory / f"{NAME}.key").write_text("garbage")
    result = run()
    assert result["failed"]
    assert "The repository key cannot be read" in result["msg"]


def test_a_key_is_replaced_once(run: Run, directory: pathlib.Path) -> None:
    old = run()["fingerprint"]
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert not run(replaces="00" * 20)["changed"]
    predicted = run(replaces=old, _ansible_check_mode=True)
    assert predicted["changed"]
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    result = run(replaces=old.lower().replace(":", ""))
    assert result["created"] == [f"{NAME}.key", f"{NAME}.crt"]
    assert result["fingerprint"] != old
    ending = old.replace(":", "").lower()[:8]
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    for name in (f"{NAME}.key", f"{NAME}.crt"):
        assert after[f"{name}.{ending}"] == before[name]
        assert after[name] != before[name]
    assert after[f"{NAME}.masterkey"] == before[f"{NAME}.masterkey"]
    assert not run(replaces=old)["changed"]
    assert not run()["changed"]


def vault(path: pathlib.Path) -> None:
    path.chmod(0o600)
    path.write_text("$ANSIBLE_VAULT;1.1;AES256\n3031\n")


@pytest.mark.parametrize("suffixes", [["key"], ["masterkey"], ["key", "masterkey"], ["masterkey", "pub", "key", "crt"]])
def test_encrypted_keys_are_there(run: Run, directory: pathlib.Path, suffixes: list[str]) -> None:
    """They cannot be compared, but for the others, and are left as they are."""
    run()
    for suffix in suffixes:
        vault(directory / f"{NAME}.{suffix}")
    assert not run()["changed"]
    if len(suffixes) == 1:
        other = "crt" if suffixes == ["masterkey"] else "masterkey"
        (directory / f"{NAME}.{other}").unlink()
        (directory / f"{NAME}.{other}").write_text("garbage")
        assert "cannot be read" in run()["msg"]


def test_no_public_half_is_made_of_an_encrypted_key(run: Run, directory: pathlib.Path) -> None:
    run()
    vault(directory / f"{NAME}.masterkey")
    (directory / f"{NAME}.pub").unlink()
    assert "Decrypt it with ansible-vault" in run()["msg"]


def test_what_cannot_be_read(run: Run, directory: pathlib.Path) -> None:
    run()
    (directory / f"{NAME}.key").unlink()
    (directory / f"{NAME}.key").mkdir()
    result = run()
    assert result["failed"]
    assert f"Cannot use the keys in {directory}: Is a directory" in result["msg"]
