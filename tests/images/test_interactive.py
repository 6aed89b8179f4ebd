# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive transactions in containers that are not privileged: with each engine, by root and by an ordinary user."""

from __future__ import annotations

import json
import time

import pytest
from conftest import CONFINED, RELEASE_MANAGER, Engine

FQRN = "edited.example.org"

# As the collection starts it; see plugins/module_utils/_engine.py.
MOUNTING = [
    *("--device", "/dev/fuse", "--security-opt", "apparmor=unconfined"),
    *("--cap-add", "SYS_ADMIN", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"),
    *("--cap-add", "FSETID", "--cap-add", "SETFCAP"),
]
PLACES = ["--env", "CVMFS_CONFIG_DIR=/tmp/etc"]
MKFS = f"cvmfs_server mkfs -w http://127.0.0.1/x -u local,/tmp/storage/data/txn,/tmp/storage {FQRN}"
# Whoever may make user namespaces can mount in one, with no rights outside it.
ORDINARY_USER = [*CONFINED, "--user", "1000:1000", "--device", "/dev/fuse", "--security-opt", "seccomp=unconfined"]

# Prints what /proc says about the union file system, and what a second transaction sees of the first one's changes.
SCRIPT = f"""
set -e
exec 3>&1 >&2
{MKFS}
[ -z "$SPOOL" ] || sed -i "s,^CVMFS_SPOOL_DIR=.*,CVMFS_SPOOL_DIR=$SPOOL," /tmp/etc/repositories.d/{FQRN}/server.conf
cvmfs_server transaction {FQRN}
grep ' /cvmfs/{FQRN} ' /proc/self/mountinfo >&3
cd /cvmfs/{FQRN}
mkdir -p a/b d
echo content >a/b/file
ln a/b/file a/b/link
echo old >d/gone
rm new_repository
cd /
cvmfs_server publish {FQRN}
cvmfs_server transaction --interactive {FQRN}
cd /cvmfs/{FQRN}
mv a c
chmod 600 c/b/file
rm -r d
mkdir d
echo more >d/more
cd /
cvmfs_server publish {FQRN}
cvmfs_server transaction {FQRN}
cd /cvmfs/{FQRN}
find . -type f -printf '%P %m %n ' -exec cat {{}} \\; | sort >&3
cd /
cvmfs_server abort -f {FQRN}
cvmfs_server check -i {FQRN}
"""
CONTENT = ["c/b/file 600 2 content", "c/b/link 600 2 content", "d/more 644 1 more"]
WITHOUT_LINKS = ["c/b/file 600 1 content", "c/b/link 644 1 content", "d/more 644 1 more"]


def edit(engine: Engine, *options: str, before: tuple[str, ...] = (), expected: list[str] = CONTENT) -> str:
    """Edit and publish a repository twice; return the line about its first union file system."""
    name = f"{engine.prefix}-editor"
    process = engine(
        *("run", "--rm", "--name", name, "--network", "none", *options, *PLACES, RELEASE_MANAGER),
        *(*before, "bash", "-c", SCRIPT),
        check=False,
    )
    assert process.returncode == 0, process.stderr
    union, *content = process.stdout.splitlines()
    assert content == expected
    return union


def test_the_kernels_overlay(engine: Engine) -> None:
    union = edit(engine, *CONFINED, *MOUNTING)
    assert " - overlay " in union
    assert ("userxattr" in union) == (engine.user != "root")


def test_a_container_that_is_stopped_and_started(engine: Engine) -> None:
    """Nothing that was written is lost, and what is open in a shell is no hindrance."""
    places = ["--env", "CVMFS_CONFIG_DIR=/var/spool/cvmfs/etc", "--volume", "/var/spool/cvmfs"]
    options = [*CONFINED, *MOUNTING, *places, "--network", "none"]
    name = f"{engine.prefix}-stopped"
    engine.output("run", "--detach", "--name", name, *options, RELEASE_MANAGER)

    def execute(script: str) -> str:
        return engine.output("exec", name, "bash", "-ec", script)

    try:
        execute(f"cd /var/spool/cvmfs; {MKFS}".replace("/tmp", "$PWD"))  # noqa: S108
        execute(f"cvmfs_server transaction --interactive {FQRN} && echo content >/cvmfs/{FQRN}/file")
        engine.output("exec", "--detach", "--workdir", f"/cvmfs/{FQRN}", name, "sh", "-c", "sleep 600 >open")
        execute(f"until [ -e /cvmfs/{FQRN}/open ]; do sleep 0.1; done")
        start = time.monotonic()
        engine.output("stop", "--time", "20", name)
        assert time.monotonic() - start < 18, "it was killed"
        assert engine.output("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
        engine.output("start", name)
        execute(f"cvmfs_server mount {FQRN} && cvmfs_server publish {FQRN} && cvmfs_server check -i {FQRN}")
        execute(f"cvmfs_server transaction --interactive {FQRN}")
        assert execute(f"cd /cvmfs/{FQRN} && cat file && ls").split() == ["content", "file", "new_repository", "open"]
    finally:
        engine("rm", "--force", "--volumes", name)


def test_no_added_capability(podman: Engine) -> None:
    """A user namespace made inside gives the right to mount."""
    assert "userxattr" in edit(podman, *ORDINARY_USER, before=("unshare", "--user", "--map-root-user", "--mount"))


def test_an_ordinary_user_enters(podman: Engine) -> None:
    command = f"id -u; cd /cvmfs/{FQRN}; mkdir a; echo content >a/file; rm new_repository; ls; cat a/file"
    script = f"{MKFS} >&2; cvmfs_server enter {FQRN} -- sh -c '{command}'"
    output = podman.run(*ORDINARY_USER, *PLACES, "--env", "HOME=/tmp", RELEASE_MANAGER, "bash", "-c", script)
    assert output.split() == ["1000", "a", "content"]


def test_scratch_area_on_the_containers_own_file_system(podman: Engine) -> None:
    """The kernel's overlay cannot have its scratch area on another overlay."""
    assert " - fuse.fuse-overlayfs " in edit(podman, *MOUNTING, "--env", "SPOOL=/spool", expected=WITHOUT_LINKS)


@pytest.mark.parametrize("options", [[], ["--device", "/dev/fuse"]], ids=["nothing", "the device only"])
def test_without_rights_a_transaction_is_mountless(podman: Engine, options: list[str]) -> None:
    script = f"{MKFS} >&2 && cvmfs_server transaction --json {FQRN}"
    process = podman(
        *("run", "--rm", "--network", "none", *CONFINED, *PLACES, *options, RELEASE_MANAGER, "bash", "-c", script)
    )
    assert json.loads(process.stdout)["mount_point"] is None
    assert "This is a mountless transaction: " in process.stderr
