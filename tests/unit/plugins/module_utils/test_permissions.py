# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may publish where."""

from __future__ import annotations

import grp
import pathlib
import pwd

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._permissions import Person
from hosts import configure

FQRN = "sw.example.org"
PERMISSIONS = {"sw/atlas": ["alice", "%atlas"], "/sw/cms/": ["%cms"], "/": ["%admins"]}
ACCOUNT = pwd.getpwnam("nobody")


def person(account: str, *groups: str) -> Person:
    return Person(account, frozenset([account, *(f"%{group}" for group in groups)]))


@pytest.mark.parametrize(
    ("who", "path", "allowed"),
    [
        (person("alice"), "sw/atlas", True),
        (person("alice"), "/sw/atlas/1.0/", True),
        (person("alice"), "sw//atlas/x", True),
        (person("alice"), "sw/atlas-private", False),
        (person("alice"), "sw", False),
        (person("alice"), "", False),
        (person("alice"), "sw/cms", False),
        (person("alice"), "sw/atlas/../cms", False),
        (person("bob", "atlas", "cms"), "sw/cms/x", True),
        (person("bob", "atlas", "cms"), "sw/atlas/x", True),
        (person("cms"), "sw/cms/x", False),  # an account is no group
        (person("root2", "admins"), "", True),
        (person("mallory"), "sw/atlas", False),
    ],
)
def test_paths(who: Person, path: str, allowed: bool) -> None:
    if allowed:
        who.require(PERMISSIONS, FQRN, path)
    else:
        with pytest.raises(PublishingError):
            who.require(PERMISSIONS, FQRN, path)


@pytest.mark.parametrize("path", ["/cvmfs/{}/sw", "//cvmfs//{}", "cvmfs/{}/sw/cms", "/cvmfs/{}/cvmfs/x"])
def test_paths_of_the_mounted_repository_are_refused(path: str) -> None:
    """The publisher takes them for those below the mount point."""
    permissions = {"cvmfs": ["alice"], "/": ["%admins"]}
    path = path.format(FQRN)
    for who in (person("alice"), person("bob", "admins")):
        with pytest.raises(PublishingError, match=r"is a path of the mounted .* without the mount point: sw\.example"):
            who.require(permissions, FQRN, path)
    person("alice").require(permissions, FQRN, "/cvmfs/other.example.org")


def test_the_refusal_says_what_is_allowed() -> None:
    with pytest.raises(
        PublishingError, match=r"bob may not publish at sw.example.org/x, but below .*/sw/atlas, .*/sw/cms"
    ):
        person("bob", "atlas", "cms").require(PERMISSIONS, FQRN, "x")
    with pytest.raises(PublishingError, match="but nowhere"):
        person("mallory").require(PERMISSIONS, FQRN, "x")


def test_sudo_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert Person.of_process() is None
    monkeypatch.setenv("SUDO_USER", "root")
    assert Person.of_process() is None
    monkeypatch.setenv("SUDO_USER", ACCOUNT.pw_name)
    group = grp.getgrgid(ACCOUNT.pw_gid).gr_name
    assert Person.of_process() == person(ACCOUNT.pw_name, group)
    monkeypatch.setenv("SUDO_USER", "nobody-knows-this-one")
    with pytest.raises(PublishingError, match="Nobody knows who nobody-knows-this-one is"):
        Person.of_process()


@pytest.fixture
def config(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host with a repository, of which nobody may publish a part, and to which nobody has come by sudo."""
    configure(tmp_path, FQRN, permissions={"sw/theirs": [ACCOUNT.pw_name]})
    monkeypatch.setenv("SUDO_USER", ACCOUNT.pw_name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ingest", f"{FQRN}/sw/other"], "may not publish at sw.example.org/sw/other"),
        (["ingest", f"{FQRN}/sw/theirs/../other"], "is no path of a repository"),
        (["ingest", FQRN], "may not publish at sw.example.org/,"),
        (["shell", f"{FQRN}/sw/theirs"], "may not do this"),
        (["run", f"{FQRN}/sw/theirs", "--", "true"], "may not do this"),
        (["attach", FQRN], "may not do this"),
        (["abort", "-f", FQRN], "may not do this"),
        (["server", FQRN, "tag", "-l"], "may not do this"),
        (["--config-dir", "/tmp", "shell", FQRN], "--config-dir is not for use by sudo"),  # noqa: S108
    ],
)
def test_who_may_publish_a_part_may_do_nothing_else(
    config: pathlib.Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _host_command.main(arguments, config_dir=str(config)) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", [f"../elsewhere/{FQRN}", "", "..", "/absolute"])
def test_a_path_is_no_repository(
    config: pathlib.Path, name: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else who may call the command by sudo could bring a configuration of their own, without permissions."""
    own = tmp_path_factory.mktemp("own")
    (own / "release-manager.json").write_text((config / FQRN / "release-manager.json").read_text())
    name = str(own) if name == "/absolute" else name
    for arguments in (["abort", "-f", name], ["server", name, "tag", "-l"], ["attach", name]):
        assert _host_command.main(arguments, config_dir=str(config)) == 1
        assert "is not the name of a repository" in capsys.readouterr().err
