# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import the collection by its name from a plain checkout, as `ansible-test units` does."""

from __future__ import annotations

import functools
import http.server
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

if ROOT.parts[-3:] != ("ansible_collections", "cvmfs", "publishing"):
    _tree = tempfile.TemporaryDirectory(prefix="cvmfs-collections-")
    _link = pathlib.Path(_tree.name, "ansible_collections", "cvmfs", "publishing")
    _link.parent.mkdir(parents=True)
    _link.symlink_to(ROOT)
    sys.path.insert(0, _tree.name)
sys.path.insert(0, str(pathlib.Path(__file__).parent))

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "upstream_repository.tar"
FIXTURE_NAME = "fixture.example.org"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def upstream_repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files of a small repository that CernVM-FS's own cvmfs_server 2.12 has made; each test has its own copy.

    Its whitelist is valid until 2126. It has a nested catalog, a chunked file, a fifo and odd names.
    """
    # Not with tarfile, which on Debian 12 is older than the filters that later releases ask for.
    (tmp_path / "www").mkdir()
    subprocess.run(["tar", "--extract", "--file", FIXTURE, "--directory", tmp_path / "www"], check=True)
    return tmp_path / "www" / FIXTURE_NAME


@pytest.fixture
def upstream_url(upstream_repository: pathlib.Path) -> Iterator[str]:
    """The URL at which that repository can be read."""
    handler = functools.partial(_QuietHandler, directory=str(upstream_repository.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{FIXTURE_NAME}"
        server.shutdown()
        thread.join()


@pytest.fixture
def upstream_key(upstream_repository: pathlib.Path) -> str:
    """The public half of that repository's master key."""
    return (upstream_repository / f"{FIXTURE_NAME}.pub").read_text()
