# SPDX-License-Identifier: GPL-3.0-or-later
"""Whitelists that the controller signs: what is in them is the task's choice, whatever a host asks for."""

from __future__ import annotations

import base64
import datetime
import pathlib
import types
from typing import Any

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.cvmfs.publishing.plugins.action import cvmfs_repository, cvmfs_whitelist
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._keys import KeySet
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import Whitelist, fingerprint, printed
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import certificate_der
from ansible_collections.cvmfs.publishing.plugins.plugin_utils import _signing

NAME = "sw.example.org"
KEYS = KeySet.generate(fqrn=NAME, days=9)
CERTIFICATE = certificate_der(KEYS.crt)
OTHER = certificate_der(KeySet.generate(fqrn=NAME, days=9).crt)


def sign(*certificates: bytes | None, current: bytes | None = None, keys: KeySet = KEYS, **choices: Any) -> list[bytes]:
    """Sign for the certificate, if there is one; `current` is the whitelist that the host says is there."""
    to_sign = {"algorithm": "", "keep": [], "rolls_over": False, "current": base64.b64encode(current or b"").decode()}
    arguments = {name: choices.pop(name) for name in ("fqrn", "days") if name in choices}
    return _signing.sign_whitelists(
        masterkey=keys.masterkey.decode(),
        certificate=certificates[0] if certificates else None,
        to_sign={**to_sign, **choices},
        **{"fqrn": NAME, "days": 20, **arguments},
    )


def listed(data: bytes) -> tuple[str, ...]:
    """The fingerprints of a whitelist that this master key has signed."""
    whitelist = Whitelist.parse(data)
    whitelist.verify([KEYS.pub.decode()])
    return whitelist.fingerprints


@pytest.mark.parametrize("algorithm", ["", "-rmd160", "-shake128"])
def test_a_new_whitelist(algorithm: str) -> None:
    (data,) = sign(CERTIFICATE, algorithm=algorithm)
    whitelist = Whitelist.parse(data)
    assert listed(data) == (fingerprint(CERTIFICATE, algorithm),)
    assert whitelist.lists(CERTIFICATE)
    assert (whitelist.repository, whitelist.expires - whitelist.created) == (NAME, datetime.timedelta(days=20))
    assert abs(datetime.datetime.now(datetime.UTC) - whitelist.created) < datetime.timedelta(minutes=1)


def test_what_is_listed_stays_listed() -> None:
    (both,) = sign(OTHER, current=sign(CERTIFICATE)[0], keep=[fingerprint(CERTIFICATE)])
    assert listed(both) == (fingerprint(OTHER), fingerprint(CERTIFICATE))
    (again,) = sign(current=both, keep=list(listed(both)))
    assert listed(again) == listed(both)


def test_a_roll_over() -> None:
    both, alone = sign(OTHER, current=sign(CERTIFICATE)[0], keep=[fingerprint(CERTIFICATE)], rolls_over=True)
    assert listed(both) == (fingerprint(OTHER), fingerprint(CERTIFICATE))
    assert listed(alone) == (fingerprint(OTHER),)


def test_a_host_gets_no_signature_for_a_certificate_of_its_own() -> None:
    (data,) = sign(CERTIFICATE, current=sign(CERTIFICATE)[0], keep=[fingerprint(OTHER)])
    assert listed(data) == (fingerprint(CERTIFICATE),)


@pytest.mark.parametrize(
    ("current", "says"),
    [
        (sign(CERTIFICATE, keys=KeySet.generate(fqrn=NAME, days=9))[0], "was not signed by this master key"),
        (sign(CERTIFICATE)[0].replace(b"\nE2", b"\nE3"), "was not signed by this master key"),
        (sign(CERTIFICATE, fqrn="other.example.org")[0], "The whitelist is that of other.example.org"),
    ],
)
def test_a_whitelist_that_is_not_to_be_believed(current: bytes, says: str) -> None:
    with pytest.raises(PublishingError, match=says):
        sign(current=current, keep=[fingerprint(CERTIFICATE)])


def test_nothing_to_sign_for() -> None:
    with pytest.raises(PublishingError, match=r"says for which certificate to sign\. Give the certificate"):
        sign()


@pytest.mark.parametrize("masterkey", ["", "no key", KEYS.pub.decode()])
def test_no_master_key(masterkey: str) -> None:
    with pytest.raises(PublishingError, match="The master key cannot be read"):
        sign(CERTIFICATE, keys=KeySet(masterkey=masterkey.encode()))


class Host:
    """What answers for a host: it asks for whitelists, and says that all is well when it has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **to_sign: Any) -> None:
        monkeypatch.setattr(ActionBase, "run", lambda *_: {})
        monkeypatch.setattr(ActionBase, "_execute_module", self._execute)
        current = base64.b64encode(sign(OTHER)[0]).decode()
        wishes = {"algorithm": "", "current": current, "keep": [fingerprint(OTHER)], "rolls_over": True}
        self._to_sign = {**wishes, "replaces": "ab", **to_sign}
        self.whitelists: list[tuple[str, ...]] = []

    def _execute(self, *, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        signed = module_args.get("signed") or [module_args.get("whitelist")]
        if signed == [None]:
            return {"changed": True, "to_sign": self._to_sign}
        self.whitelists = [listed(base64.b64decode(text)) for text in signed]
        self.replaced = module_args.get("replaces")
        return {"changed": True}

    def run(self, plugin: Any, **arguments: Any) -> dict[str, Any]:
        """Run a task of a play there."""
        action = plugin.ActionModule.__new__(plugin.ActionModule)
        keys = {"masterkey": KEYS.masterkey.decode(), "certificate": KEYS.crt.decode()}
        action._task = types.SimpleNamespace(
            action="a module", args={"repository": NAME, **keys, **arguments}, check_mode=False
        )
        return dict(action.run())


OTHERS = fingerprint(OTHER)
OWN = (fingerprint(CERTIFICATE),)
BOTH = (*OWN, OTHERS)


@pytest.mark.parametrize(
    ("task", "rolls_over", "whitelists"),
    [
        ({"revoke": True}, True, [OWN]),
        ({"revoke": "yes", "sign_manifest": "yes"}, True, [OWN]),
        ({"revoke": True}, False, [OWN]),
        ({"sign_manifest": True}, False, [OWN]),
        ({"sign_manifest": True}, True, [BOTH, OWN]),
        ({}, True, [BOTH]),
        ({"revoke": False, "sign_manifest": "false"}, False, [BOTH]),
    ],
)
def test_what_a_host_asks_for_and_the_task_does_not_want(
    task: dict[str, object], rolls_over: bool, whitelists: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, rolls_over=rolls_over)
    assert host.run(cvmfs_whitelist, **task) == {"changed": True}
    assert host.whitelists == whitelists
    assert host.replaced == "ab"


def test_a_new_repository_lists_no_other_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    assert host.run(cvmfs_repository) == {"changed": True}
    assert host.whitelists == [OWN]


@pytest.mark.parametrize(("keep", "whitelists"), [([], [OWN]), ([OTHERS], [(OTHERS,)])])
def test_a_certificate_for_the_case_that_there_is_no_whitelist(
    keep: list[str], whitelists: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, keep=keep)
    assert host.run(cvmfs_whitelist, certificate=None, fallback_certificate=KEYS.crt.decode()) == {"changed": True}
    assert host.whitelists == whitelists


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (sign(CERTIFICATE)[0], None),
        (sign(OTHER)[0], f"has one that lists {printed(OTHERS)}. Is the host"),
        (sign(CERTIFICATE, current=sign(OTHER)[0], keep=[fingerprint(OTHER)])[0], f"and {printed(OTHERS)}."),
        (sign(CERTIFICATE, keys=KeySet.generate(fqrn=NAME, days=9))[0], "is not signed by the master key"),
        (b"", "cannot be seen from here"),
    ],
    ids=["the new one", "another", "both", "another master key", "nothing"],
)
def test_a_host_that_says_that_it_is_done(
    there: bytes,
    says: str | None,
    upstream_repository: pathlib.Path,
    upstream_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (upstream_repository / ".cvmfswhitelist").write_bytes(there)
    host = Host(monkeypatch)
    result = host.run(cvmfs_whitelist, revoke=True, url=upstream_url)
    assert result.get("failed", False) == (says is not None)
    assert says is None or says in result["msg"]
    assert not host.run(cvmfs_whitelist, url=upstream_url).get("failed")  # who keeps others is not looked after
