# SPDX-License-Identifier: GPL-3.0-or-later
"""What people may show to their containers."""

from __future__ import annotations

import os
import pathlib
import pwd
import unittest.mock

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._sources import identity, require_harmless

CLOSED = ["/var/lib/containers/storage", "/home/service"]


@pytest.mark.parametrize("path", ["/build/release", "/home/service-2", "/home/eve", "/var/lib/containers/storage-2"])
def test_harmless(path: str) -> None:
    require_harmless([path], closed=CLOSED)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/", "which has in it /dev"),
        ("/var/lib", "which has in it /var/lib/containers/storage"),
        ("/home", "which has in it /home/service"),
        ("/home/service", "which has in it /home/service"),
        ("/home/service/build", "which is in /home/service"),
        ("/run/user/1000/bus", "which is in /run"),
        ("/proc/self/root", "which is in /proc"),
        (os.fsdecode(b"/build/latin-\xe9"), "is not UTF-8"),
        ("/build/\N{REPLACEMENT CHARACTER}", "is not UTF-8"),
    ],
)
def test_harmful(path: str, message: str) -> None:
    with pytest.raises(PublishingError) as raised:
        require_harmless(["/build", path], closed=CLOSED)
    assert message in str(raised.value)


def test_a_place_that_is_elsewhere(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "storage")
    with pytest.raises(PublishingError):
        require_harmless([f"{tmp_path}/storage/secrets"], closed=[f"{tmp_path}/link"])


def test_the_engine_is_asked_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", pwd.getpwuid(65534).pw_name)
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        os.mkdir(path)
    release_manager = unittest.mock.Mock()
    assert _host_command._sources(release_manager, paths) == paths
    release_manager.require_harmless.assert_called_once_with(paths)
    assert _host_command._sources(release_manager, []) == []
    release_manager.require_harmless.assert_called_once()


def test_identity(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    assert identity(f"{source}") == ""
    source.mkdir()
    (source / "below").mkdir()
    status = os.stat(source)
    assert identity(f"{source}") == f"{status.st_dev}:{status.st_ino}"
    (tmp_path / "link").symlink_to(source)
    assert identity(f"{tmp_path}/link") == ""
    assert identity(f"{tmp_path}/link/below") == ""
