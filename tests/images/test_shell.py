# SPDX-License-Identifier: GPL-3.0-or-later
"""The image that people work in: the release manager with what it takes to build software in the repository."""

from __future__ import annotations

from conftest import CONFINED, Engine
from test_interactive import FQRN, MKFS, MOUNTING, PLACES

IMAGE = "localhost/cvmfs-shell:native"

# Builds a program with CMake out of a git repository, installs it in the CernVM-FS repository, and runs it from there.
SCRIPT = f"""
set -e
{MKFS}
cvmfs_server transaction --interactive {FQRN}
export HOME=/var/spool/cvmfs/home
git init -q /tmp/source
cd /tmp/source
printf 'program hello\\nprint *, 6 * 7\\nend program\\n' >hello.f90
cat >CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.20)
project(hello Fortran)
add_executable(hello hello.f90)
install(TARGETS hello)
END
git add .
git -c user.name=a -c user.email=a@example.org commit -q -m first
git clone -q . /tmp/clone
cmake -G Ninja -S /tmp/clone -B /tmp/build -D CMAKE_INSTALL_PREFIX=/cvmfs/{FQRN}/hello
cmake --build /tmp/build --target install
cd /
/cvmfs/{FQRN}/hello/bin/hello
cvmfs_server publish {FQRN}
cvmfs_server check -i {FQRN}
"""


def test_software_is_built_and_published(podman: Engine) -> None:
    output = podman.run(*CONFINED, *MOUNTING, *PLACES, IMAGE, "bash", "-c", SCRIPT)
    assert "42" in output.split()
    assert "published revision 2, tagged" in output
