# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules from their parameters to their results, with the commands that they run in between.

In the cases, @CONFIG@ is a release manager's configuration, @SOURCE@ is a directory, and the repository is the fixture.
`settings` are added to its server.conf, `facts` to what the modules know, `lease` is in its storage, @DIGEST@ is that
of its configuration.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import pathlib
from typing import Any

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.cvmfs.publishing.plugins.module_utils import _command, _engine
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import Lease, Whitelist
from cases import Case, Commands, load
from conftest import FIXTURE_NAME
from hosts import configure

MODULES = "ansible_collections.cvmfs.publishing.plugins.modules"
SECRETS = {f"keys/{FIXTURE_NAME}.key": "fixture-key", f"s3/{FIXTURE_NAME}.conf": "fixture-s3"}


class Clock:
    """Stands in for the module `time`: who sleeps is awake at once, and later."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def config(tmp_path: pathlib.Path, upstream_url: str, upstream_key: str) -> pathlib.Path:
    """What the role release_manager leaves on a host."""
    facts = {"container_name": f"cvmfs-{FIXTURE_NAME}", "image": "rm:native", "repository": FIXTURE_NAME}
    directory = configure(tmp_path / "config", FIXTURE_NAME, **facts, secrets=SECRETS, stratum0_url=upstream_url)
    (directory / "server.conf").write_text("# by Ansible\nCVMFS_HASH_ALGORITHM=sha1\nCVMFS_AUTO_TAG=false\n")
    (directory / "client.conf").touch()
    (directory / f"{FIXTURE_NAME}.pub").write_text(upstream_key)
    return tmp_path / "config"


@pytest.mark.parametrize("case", load(__file__))
def test_module(
    case: Case,
    config: pathlib.Path,
    tmp_path: pathlib.Path,
    upstream_repository: pathlib.Path,
    upstream_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "source").mkdir()
    texts = {"@CONFIG@": str(config), "@DIGEST@": _digest(config), "@SOURCE@": str(tmp_path / "source")}
    case = _fill(case, {**texts, "@URL@": upstream_url, **_whitelists(upstream_repository)})
    facts = config / FIXTURE_NAME / "release-manager.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), **case.get("facts", {})}))
    if "lease" in case:
        (upstream_repository / Lease.KEY).write_text(json.dumps(case["lease"]))
    with (config / FIXTURE_NAME / "server.conf").open("a") as stream:
        stream.writelines(f"{key}={value}\n" for key, value in case.get("settings", {}).items())
    commands = Commands(case.get("commands", []))
    monkeypatch.setattr(_command, "run", commands)
    monkeypatch.setattr(_engine.Engine, "_digest", lambda _self, _container: "digest")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: warnings.append(text))
    module = importlib.import_module(f"{MODULES}.{case['module']}")
    monkeypatch.setattr(module, "time", Clock(), raising=False)
    arguments = {**case["parameters"], "_ansible_check_mode": case.get("check", False), "_ansible_diff": True}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result = json.loads(capfd.readouterr().out)
    expected = case["result"]
    assert {key: result.get(key) for key in expected} == expected
    assert warnings == case.get("warnings", [])
    commands.finish()


def _digest(config: pathlib.Path) -> str:
    names = (f"{FIXTURE_NAME}.pub", "server.conf", "client.conf")
    return hashlib.sha256(b"".join((config / FIXTURE_NAME / name).read_bytes() for name in names)).hexdigest()


def _whitelists(repository: pathlib.Path) -> dict[str, str]:
    """The whitelist that is there, its digest, one with another signature, and the fingerprint that both list."""
    data = (repository / ".cvmfswhitelist").read_bytes()
    forged = data[:-1] + bytes([data[-1] ^ 1])
    (fingerprint,) = Whitelist.parse(data).fingerprints
    encoded = {"@WHITELIST@": data, "@FORGED@": forged}
    texts = {"@FINGERPRINT@": fingerprint, "@WHITELIST_DIGEST@": hashlib.sha256(data).hexdigest()}
    return {**texts, **{name: base64.b64encode(value).decode() for name, value in encoded.items()}}


def _fill(value: Any, replacements: dict[str, str]) -> Any:
    text = yaml.safe_dump(value, width=1000)
    for name, replacement in replacements.items():
        text = text.replace(name, replacement)
    return yaml.safe_load(text)
