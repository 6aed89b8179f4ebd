# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of .cvmfsdirtab files."""

from __future__ import annotations

import pytest

from cvmfs_publisher.changes.dirtab import Dirtab
from cvmfs_publisher.errors import SourceError

DOCUMENTED = b"""\
# Nested catalogs for every platform
/software/*
# Nested catalogs for every version
/software/*/*
! */common

  /grid-certificates \t
"""


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        (DOCUMENTED, b"software/i686", True),
        (DOCUMENTED, b"software/i686/1.0", True),
        (DOCUMENTED, b"software/i686/1.0/lib", False),
        (DOCUMENTED, b"software/i686/common", False),
        (DOCUMENTED, b"software/common", False),
        (DOCUMENTED, b"software/uncommon", True),
        (DOCUMENTED, b"grid-certificates", True),
        (DOCUMENTED, b"software", False),
        (b"/*", b"", False),
        (b"/*", b"a", True),
        (b"/*", b".hidden", True),
        (b"/a?c", b"abc", True),
        (b"/a?c", b"ac", False),
        (b"/a.c", b"abc", False),
        (b"/a[bc]", b"ab", False),
        (b"/a[bc]", b"a[bc]", True),
        (rb"/a\*c", b"a*c", True),
        (rb"/a\*c", b"abc", False),
        (rb"/a\\", b"a\\", True),
        (b"//a///b/", b"a/b", True),
        (b"/*\n! /Machines/Linux*/2.*", b"Machines", True),
        (b"/Machines/Linux*/*\n! /Machines/Linux*/2.*", b"Machines/Linux_x86/2.6.11", False),
        (b"/Machines/Linux*/*\n! /Machines/Linux*/2.*", b"Machines/Linux_x86/3.2", True),
        (b"/x/*/*/*\n! /x/*z", b"x/a/b/cz", False),
        (b"/x/*\n!x/*", b"x/a", True),
        (b"/x/*\n! *.svn", b"x/.svn", False),
        (b"/caf\xe9/*", b"caf\xe9/line\nbreak", True),
        (b"", b"a", False),
    ],
)
def test_what_rules_mean(rules: bytes, path: bytes, expected: bool) -> None:
    assert Dirtab.parse(rules).covers(path) is expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (b"relative/path", "Line 1 of /.cvmfsdirtab is no rule: 'relative/path'. Name a path below the root"),
        (b"/", "Line 1 of /.cvmfsdirtab is no rule: '/'. Name a path below the root"),
        (b"# good\n\n/good\n*", "Line 4 of /.cvmfsdirtab"),
        (rb"/a\b", r"Only \*, \? and backslash can follow a backslash"),
        (b"/a\\", "can follow a backslash"),
        (b"/a/*\n! /a/*", "Line 2 of /.cvmfsdirtab is no rule: '/a/\\*'. Another line says the opposite"),
        (b"! /a\n/a", "Another line says the opposite"),
    ],
)
def test_what_is_no_rule(rules: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Dirtab.parse(rules)
