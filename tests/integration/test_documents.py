# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs the guides' commands must notice when they do not do what a guide says."""

from __future__ import annotations

import os
import pathlib

import pytest

from . import documents
from .conftest import ROOT


def run(tmp_path: pathlib.Path, text: str, **names: str) -> int:
    guide = tmp_path / "guide.md"
    guide.write_text(text)
    return documents.run(guide, environment=os.environ, directory=tmp_path, names=names)


@pytest.mark.parametrize(
    "block",
    [
        "$ echo one\none\n",
        "$ printf 'a\\nb\\nc\\n'\na\n...\nc\n",
        "$ printf 'a\\nb\\nc\\n'\n...\nc\n",
        "$ echo revision 12 of 13\nrevision … of 13\n",
        "$ echo one \\\n    two\none two\n$ echo three\nthree\n",
        "$ x=1; cd /\n$ echo $x $PWD\n1 /\n",
        "$ echo anything\n",
    ],
)
def test_what_is_as_said(tmp_path: pathlib.Path, block: str) -> None:
    assert run(tmp_path, f"Text\n\n```console\n{block}```\n\nMore\n") == block.count("$ ")


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("$ echo one\ntwo\n", "guide.md:4: echo one\nprinted:\none"),
        ("$ echo one; false\none\n", "ended with 1"),
        ("$ echo one\n$ printf 'a\\nb\\n'\na\n", "guide.md:5"),
        ("$ echo one; exit 0\none\n", "ended early"),
    ],
)
def test_what_is_not(tmp_path: pathlib.Path, block: str, says: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run(tmp_path, f"Text\n\n```console\n{block}```\n")
    assert says in str(caught.value)


def test_names_are_those_of_the_test(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, "```console\n$ echo HOST is up\nHOST is up\n```\n", HOST="here") == 1


def test_what_is_not_run_says_why(tmp_path: pathlib.Path) -> None:
    not_run = "<!-- not run: it needs a person -->\n```console\n$ false\n```\n"
    in_a_list = "- item\n\n  ```console\n  $ echo in a list\n  in a list\n  ```\n"
    assert run(tmp_path, not_run + in_a_list) == 1
    assert [block.why_not for block in documents.blocks(tmp_path / "guide.md")] == ["it needs a person", None]


def test_output_without_a_command(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="line 2"):
        run(tmp_path, "```console\noutput\n```\n")


@pytest.mark.parametrize("guide", sorted((ROOT / "docs").glob("*.md")), ids=lambda guide: guide.stem)
def test_each_block_of_our_guides_begins_with_a_command(guide: pathlib.Path) -> None:
    assert all(block.commands for block in documents.blocks(guide))
