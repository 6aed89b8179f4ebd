# SPDX-License-Identifier: GPL-3.0-or-later
"""The document on compatibility names every option there is, and no test that there is not."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cvmfs_publisher.cli.arguments import build_parser
from cvmfs_publisher.cli.commands import COMMANDS
from cvmfs_publisher.cli.refused import REFUSED

_TESTS = Path(__file__).parent
_COLLECTION = _TESTS.parents[3]
_DOCUMENT = (_COLLECTION / "docs" / "compatibility.md").read_text()
UPSTREAM: dict[str, dict[str, str]] = tomllib.loads((_TESTS / "upstream_cvmfs_server.toml").read_text())

_STATES = {"supported", "different on purpose", "refused by name", "added", "missing"}
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def native() -> dict[str, dict[str, argparse.Action]]:
    """Return the native publisher's options by subcommand."""
    (subparsers,) = (
        action for action in build_parser(COMMANDS)._actions if isinstance(action, argparse._SubParsersAction)
    )
    return {
        command: {option: action for action in parser._actions for option in action.option_strings}
        for command, parser in subparsers.choices.items()
    }


def rows(section: str) -> Iterator[list[str]]:
    """Return the cells of the tables in a part of the document, without their heads."""
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith(("| option |", "| case |")):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def documented() -> dict[str, dict[str, list[str]]]:
    """Return the rows about options by subcommand and option."""
    part = _DOCUMENT.split("## Subcommands and options")[1].split("\n## ")[0]
    found: dict[str, dict[str, list[str]]] = {}
    for text in part.split("\n### ")[1:]:
        command = text.splitlines()[0].strip("`")
        found[command] = {option: row for row in rows(text) for option in re.findall(r"`(-[\w-]+)`", row[0])}
    return found


def cases() -> list[list[str]]:
    return list(rows(_DOCUMENT.split("## Cases of upstream's server test suite")[1]))


def test_every_subcommand_is_documented() -> None:
    assert documented().keys() == native().keys() | UPSTREAM.keys()


def test_every_option_is_documented() -> None:
    table, options = documented(), native()
    for command in table:
        there = options.get(command, {}).keys() - {"--help"}
        assert table[command].keys() == there | UPSTREAM.get(command, {}).keys(), command


def test_states_are_true() -> None:
    table, options = documented(), native()
    for command, documented_options in table.items():
        for option, (_, _, state, remark, tests) in documented_options.items():
            label = f"{command} {option}"
            assert state in _STATES, label
            action = options.get(command, {}).get(option)
            refused = type(action).__name__ == "_Refused"
            if action is None:
                assert state == ("refused by name" if command in REFUSED else "missing"), label
            elif refused:
                assert state == "refused by name", label
            else:
                assert (state == "added") == (option not in UPSTREAM.get(command, {})), label
                assert state not in ("missing", "refused by name"), label
            if state in ("refused by name", "different on purpose"):
                assert remark, f"{label}: why?"
            assert state == "missing" or _TEST.search(tests), f"{label}: which test proves it?"


def test_spellings_mean_the_same() -> None:
    """A row with several spellings, or that says it is as another one, is about one option of the parser."""
    options = native()
    for command, section in documented().items():
        for option, (cell, _, state, remark, _) in section.items():
            spellings = set(re.findall(r"`(-[\w-]+)`", cell)) | set(re.findall(r"^As `(-[\w-]+)`\.", remark))
            if state not in ("refused by name", "missing"):
                assert len({options[command][spelling].dest for spelling in spellings}) == 1, f"{command} {option}"


def test_every_case_is_listed_with_a_test_or_a_reason() -> None:
    found = cases()
    numbers = [int(number) for number, *_ in found]
    assert numbers == sorted(numbers)
    assert {*range(500, 694), *range(699, 706), 707} - {588} == set(numbers)
    for number, _, title, state, why in found:
        assert state in ("passing", "different on purpose", "missing"), number
        assert title
        assert _TEST.search(why) if state == "passing" else why, number


def test_what_cases_say_is_refused_by_name_is_refused() -> None:
    options, said = native(), 0
    for number, *_, why in cases():
        for command, option in re.findall(r"`([\w-]+) (--?[\w-]+)[^`]*` (?:is|are) refused by name", why):
            said += 1
            action = options.get(command, {}).get(option)
            assert command in REFUSED or type(action).__name__ == "_Refused", f"{number}: {command} {option}"
    assert said


def test_every_test_that_is_named_exists() -> None:
    named = set(_TEST.findall(_DOCUMENT))
    assert len(named) > 50
    for file, test in sorted(named):
        directory = _COLLECTION / "tests" if file.startswith(("interop/", "integration/")) else _TESTS
        text = (directory / file).read_text()
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file}::{test}"
