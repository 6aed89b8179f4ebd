# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of .cvmfsdirtab files."""

from __future__ import annotations

import ctypes
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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
        (b"/a[bc]", b"ab", True),
        (b"/a[bc]", b"a[bc]", False),
        (b"/a[!b]", b"ac", True),
        (b"/a[!b]", b"ab", False),
        (b"/a[^b]c", b"a/c", False),
        (b"/v[0-9].[13-5]", b"v2.4", True),
        (b"/v[0-9].[13-5]", b"v2.2", False),
        (b"/v[9-0]", b"v5", False),
        (b"/a[]-]", b"a]", True),
        (b"/a[]-]", b"a-", True),
        (b"/a[*?]", b"a*", True),
        (b"/a[*?]", b"ax", False),
        (b"/a[bc", b"a[bc", True),
        (rb"/a[\*b]", b"a*", True),
        (rb"/a[\*b]", b"a\\", False),
        (b"/a/*\n! */[bc]", b"a/b", True),
        (b"/a/*\n! */[bc]", b"a/[bc]", False),
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
        (b"!\n ! \n", b"a", False),
        (b"/a\r\n/b\r\n", b"a", True),
        (b"/a\fb", b"a\fb", True),
    ],
)
def test_what_rules_mean(rules: bytes, path: bytes, expected: bool) -> None:
    assert Dirtab.parse(rules).covers(path) is expected


_FNMATCH = ctypes.CDLL(None).fnmatch
_PATHNAME = 1


@settings(max_examples=500, deadline=None)
@given(
    pattern=st.text("ab*?[]!^-", min_size=1, max_size=8),
    names=st.lists(st.text("ab[]!^-*", min_size=1, max_size=5), min_size=1, max_size=8),
)
def test_patterns_mean_what_the_c_library_says(pattern: str, names: list[str]) -> None:
    assume(not re.search(r"\[[!^]?]?[^]]*-$", pattern))  # no standard says what a range without an end is
    dirtab = Dirtab.parse(b"/x/" + pattern.encode())
    for name in names:
        expected = _FNMATCH(pattern.encode(), name.encode(), _PATHNAME) == 0
        assert dirtab.covers(b"x/" + name.encode()) is expected, name


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
        (b"! //a//b/\n/a/b", "Another line says the opposite"),
        (b"! /", "Line 1 of /.cvmfsdirtab is no rule: '/'"),
        (b"/a[[:digit:]]", "List the characters themselves"),
    ],
)
def test_what_is_no_rule(rules: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Dirtab.parse(rules)
