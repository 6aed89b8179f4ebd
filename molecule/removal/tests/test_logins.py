# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""What came of logins by SSH: when the role had let people and pipelines log in, and when it had taken some away."""

from __future__ import annotations

import json
import typing as t

import pytest
import testinfra

INSTANCE = "cvmfs-molecule-removal"
REPOSITORY = "molecule.example.org"
REFUSED = 255  # by sshd
NOTHING_ELSE = "This account is for cvmfs-release-manager and nothing else"


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[int, str]]:
    """Exit code and output of each login."""
    host = testinfra.get_host(f"podman://{INSTANCE}")
    read = {name: json.loads(host.check_output("cat /root/%s.json", name)) for name in ("logins", "later")}
    return t.cast(dict[str, tuple[int, str]], {**read["logins"], **read["later"]})


@pytest.mark.parametrize("certificate", ["atlas", "nightly"])
def test_one_of_the_principals_lets_in(found: dict[str, tuple[int, str]], certificate: str) -> None:
    code, said = found[certificate]
    assert (code, f"{REPOSITORY}: revision" in said) == (0, True), said


@pytest.mark.parametrize(
    "key",
    ["all", "other", "comma", "nobody", "expired", "elsewhere", "forced", "stranger", "plain", "root", "pipelines"],
)
def test_nothing_else_lets_in(found: dict[str, tuple[int, str]], key: str) -> None:
    code, said = found[key]
    assert (code, "Permission denied (publickey" in said) == (REFUSED, True), said


@pytest.mark.parametrize(
    ("asked", "code", "answer"),
    [
        ("theirs", 0, ""),
        ("the whole", 0, "trunk"),
        ("not theirs", 1, f"cvmfs-atlas may not publish at {REPOSITORY}/sw/cms/1.0, but below {REPOSITORY}/sw/atlas"),
        ("not the whole", 1, f"cvmfs-atlas may not do this with {REPOSITORY}"),
        ("no command", 1, NOTHING_ELSE),
        ("another command", 1, NOTHING_ELSE),
        ("another configuration", 1, NOTHING_ELSE),
        ("files", 1, ""),
        ("a later one", 2, "unrecognized arguments: --config-dir"),
        ("two commands", 2, "invalid choice"),
        ("forwarding", REFUSED, "stdio forwarding failed"),
        ("rc", 0, ""),
    ],
)
def test_what_is_asked_for(found: dict[str, tuple[int, str]], asked: str, code: int, answer: str) -> None:
    assert found[asked][0] == code, found[asked]
    assert answer in found[asked][1]
    assert "uid=" not in found[asked][1]  # of the command id


def test_a_pipeline_publishes_by_its_token(found: dict[str, tuple[int, str]]) -> None:
    assert found["good token"][0] == 0, found["good token"]
    assert "good-token" in found["the whole"][1]
    (line,) = found["log"][1].splitlines()  # and nobody else's
    who = '"project_path:atlas/software:ref_type:branch:ref:main" (team-atlas)'
    issued = '{"iss": "https://gitlab.example.org", "jti": "job 7"}'
    assert line == f"{who} publishes at {REPOSITORY}/sw/nightly/1.0, by the token {issued}"


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            "audience token",
            'Its audience is "https://elsewhere.example.org", and has to be "https://cvmfs.example.org"',
        ),
        ("expired token", "It expired at 2023-11-14T22:13:20+00:00"),
        ("key token", 'It was not signed by key "first" of https://gitlab.example.org'),
        ("issuer token", "this host trusts https://gitlab.example.org"),
        ("project token", 'project_path "cms/software"'),
        ("no token", "It does not begin with a line that has one"),
        ("token not asked for", f"cvmfs-pipelines may not publish at {REPOSITORY}/sw/nightly/1.0, but nowhere"),
        ("token for another path", f"may not publish at {REPOSITORY}/sw/atlas/2.0, but below {REPOSITORY}/sw/nightly"),
    ],
)
def test_no_other_token_publishes(found: dict[str, tuple[int, str]], asked: str, answer: str) -> None:
    code, said = found[asked]
    assert (code, answer in said) == (1, True), said
    assert [word for word in found["the whole"][1].split() if word.endswith("-token")] == ["good-token"]


def test_a_shell(found: dict[str, tuple[int, str]]) -> None:
    code, said = found["shell"]
    assert (code, "Published" in said or "revision" in said) == (0, True), said


def test_an_account_and_a_principal_go(found: dict[str, tuple[int, str]]) -> None:
    names = ("gone", "principal", "pipelines' account", "stays")
    assert [found[name][0] for name in names] == [REFUSED, REFUSED, REFUSED, 0], found
