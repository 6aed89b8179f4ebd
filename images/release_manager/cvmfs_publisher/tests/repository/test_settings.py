# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration files, repository names, and JSON documents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.assignments import parse_assignments
from cvmfs_publisher.content import Compression, HashAlgorithm
from cvmfs_publisher.errors import ConfigurationError, CorruptObject, UsageError
from cvmfs_publisher.repository import ServerConfig, metainfo
from cvmfs_publisher.repository.settings import check_repository_name, is_valid_repository_name

SERVER_CONF = """\
# Created by cvmfs_server.
CVMFS_CREATOR_VERSION=143
CVMFS_REPOSITORY_NAME=test.example.org
CVMFS_UPSTREAM_STORAGE=S3,/tmp,test.example.org@/etc/cvmfs/s3.conf
CVMFS_AUTO_TAG_TIMESPAN="4 weeks ago"

export CVMFS_HASH_ALGORITHM='shake128' # a comment
CVMFS_STRATUM0=http://localhost:8000/a#b
CVMFS_AUTO_TAG=true
CVMFS_AVG_CHUNK_SIZE=8388608
CVMFS_EMPTY=
CVMFS_OF_TOMORROW=kept
"""


def test_server_conf(tmp_path: Path) -> None:
    (tmp_path / "server.conf").write_text(SERVER_CONF)
    (tmp_path / "client.conf").write_text("CVMFS_PUBLIC_KEY=/etc/cvmfs/keys/x.pub\nCVMFS_AUTO_TAG=false\n")
    config = ServerConfig.load(tmp_path / "server.conf", tmp_path / "client.conf")
    assert config.repository == "test.example.org"
    assert config["CVMFS_AUTO_TAG_TIMESPAN"] == "4 weeks ago"
    assert config["CVMFS_STRATUM0"] == "http://localhost:8000/a#b"
    assert config["CVMFS_OF_TOMORROW"] == "kept"
    assert config.hash_algorithm is HashAlgorithm.SHAKE128
    assert config.compression is Compression.ZLIB
    assert config.flag("CVMFS_AUTO_TAG", True) is False
    assert config.flag("CVMFS_EMPTY", True) is True
    assert config.number("CVMFS_AVG_CHUNK_SIZE", 1) == 8 << 20
    assert config.number("CVMFS_MISSING", 7) == 7
    with pytest.raises(ConfigurationError, match="CVMFS_EMPTY is not set"):
        config.require("CVMFS_EMPTY")
    with pytest.raises(ConfigurationError, match="neither true nor false"):
        config.flag("CVMFS_STRATUM0", True)
    with pytest.raises(ConfigurationError, match="no number"):
        config.number("CVMFS_STRATUM0", 1)


@pytest.mark.parametrize(
    "line", ["if true; then", "A=b c", "A='b", "A=false;", "A=$(id)", "A=b&", "A=b|c", "=x", "1A=x"]
)
def test_what_is_no_assignment_is_refused_by_line(line: str) -> None:
    with pytest.raises(ConfigurationError, match="Line 2 of some file is not of the form NAME=value"):
        parse_assignments(f"OK=1\n{line}\n", "some file")


@pytest.mark.parametrize(
    "value", ['"$(id)"', "`id`", "/spool/$CVMFS_REPOSITORY_NAME", '"${B}"', "~/keys", "/keys:~/keys"]
)
def test_what_only_a_shell_can_tell_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="Line 1 of some file needs a shell to find the value of A"):
        parse_assignments(f"A={value}\n", "some file")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no .*server\.conf"):
        ServerConfig.load(tmp_path / "server.conf")
    with pytest.raises(ConfigurationError, match="Cannot read"):
        ServerConfig.load(tmp_path)


printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=20)


@given(st.dictionaries(st.from_regex(r"CVMFS_[A-Z0-9_]{1,9}", fullmatch=True), printable, max_size=5))
def test_what_is_rendered_is_read_back(values: dict[str, str]) -> None:
    assert dict(parse_assignments(ServerConfig(values).render(), "it")) == values


def test_a_shell_reads_what_is_rendered(tmp_path: Path) -> None:
    value = 'it\'s "quoted" $HOME `id` \\ end'
    (tmp_path / "conf").write_text(ServerConfig({"CVMFS_X": value}).render())
    shell = subprocess.run(
        ["sh", "-c", '. "$1"; printf %s "$CVMFS_X"', "sh", tmp_path / "conf"], capture_output=True, check=True
    )
    assert shell.stdout.decode() == value


@pytest.mark.parametrize("name", ["a", "test.example.org", "A-1_b.c", "9", "a" * 60])
def test_names_that_are_allowed(name: str) -> None:
    assert is_valid_repository_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "a/b", "ä", "a\n", "a" * 61, "../x"])
def test_names_that_are_not_allowed(name: str) -> None:
    with pytest.raises(UsageError, match="not a repository name"):
        check_repository_name(name)


def test_the_list_of_repositories() -> None:
    first = metainfo.add_repository(None, "b.example.org")
    both = metainfo.add_repository(metainfo.add_repository(first, "a.example.org"), "b.example.org")
    assert json.loads(both) == {
        "schema": 1,
        "repositories": [
            {"name": "a.example.org", "url": "/cvmfs/a.example.org"},
            {"name": "b.example.org", "url": "/cvmfs/b.example.org"},
        ],
        "replicas": [],
    }
    kept = json.loads(metainfo.add_repository(b'{"repositories": [], "replicas": [1], "custom": 2}', "c.example.org"))
    assert (kept["replicas"], kept["custom"]) == ([1], 2)


@pytest.mark.parametrize("existing", [b"", b"[]", b"3", b'{"repositories": 3}', b'{"repositories": [{}]}'])
def test_what_is_no_list_of_repositories(existing: bytes) -> None:
    with pytest.raises(CorruptObject):
        metainfo.add_repository(existing, "a.example.org")


def test_meta_information_has_to_be_an_object() -> None:
    metainfo.check_meta(metainfo.dump(metainfo.REPOSITORY_META))
    for text in (b"", b"[]", b"{"):
        with pytest.raises(UsageError):
            metainfo.check_meta(text)
