# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the commands that a guide shows, and compares what they print.

A block of a guide is a script, and what it prints:

    ```console
    $ ansible-playbook cvmfs.publishing.publish -e repository=software.example.org \
        -e source=/build/release
    ...
    software.example.org: published revision …
    ```

`$` begins a command, which a backslash at a line's end continues. What follows is its output: `...` alone stands for
any lines, `…` for anything in a line; a command without output may print what it likes. `<!-- not run: why -->` before
a block leaves it out.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
from collections.abc import Mapping

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\s*\n)?^(?P<indent> *)```console\n(?P<text>.*?)^ *```$", re.M | re.S
)
_END = "--- end of the output, status"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a guide, at a line of it, and the lines that it is said to print."""

    line: int
    text: str
    output: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """Commands that share a shell. `why_not` says why they are not run, if they are not."""

    commands: tuple[Command, ...]
    why_not: str | None


def blocks(document: pathlib.Path) -> list[Block]:
    """Return the blocks of a guide. ValueError for one that does not begin with a command."""
    text = document.read_text()
    return [
        Block(
            tuple(_commands(match["text"], 1 + text.count("\n", 0, match.start("text")), len(match["indent"]))),
            match["why"],
        )
        for match in _BLOCK.finditer(text)
    ]


def run(
    document: pathlib.Path, *, environment: Mapping[str, str], directory: pathlib.Path, names: Mapping[str, str]
) -> int:
    """Run the blocks of a guide, one after the other, in `directory`, and return how many commands were run.

    `names` are what stands in the guide, and what is there for it in the test. AssertionError for the first command
    that fails, or prints something else.
    """
    count = 0
    for block in blocks(document):
        if block.why_not is None:
            _run(document, block, environment, directory, names)
            count += len(block.commands)
    return count


def _run(
    document: pathlib.Path,
    block: Block,
    environment: Mapping[str, str],
    directory: pathlib.Path,
    names: Mapping[str, str],
) -> None:
    script = "".join(f"{_renamed(command.text, names)}\necho '{_END}' $?\n" for command in block.commands)
    done = subprocess.run(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=directory,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
    )
    printed = re.split(rf"{_END} (\d+)\n", done.stdout)
    for command, output, status in zip(block.commands, printed[::2], printed[1::2], strict=False):
        where = f"{document.name}:{command.line}: {_renamed(command.text, names)}"
        assert status == "0", f"{where}\nended with {status}:\n{output}"
        pattern = _pattern([_renamed(line, names) for line in command.output])
        assert not command.output or pattern.fullmatch(output), f"{where}\nprinted:\n{output}"
    assert len(printed) // 2 == len(block.commands), f"{document.name}: the shell ended early:\n{done.stdout}"


def _commands(text: str, line: int, indent: int) -> list[Command]:
    found: list[Command] = []
    continues = False
    for number, whole in enumerate(text.splitlines(), line):
        content = whole[indent:]
        if continues:
            found[-1] = dataclasses.replace(found[-1], text=f"{found[-1].text}\n{content}")
        elif content.startswith("$ "):
            found.append(Command(number, content[2:], ()))
        elif not found:
            raise ValueError(f"line {number}: the block does not begin with a command: {content}")
        else:
            found[-1] = dataclasses.replace(found[-1], output=(*found[-1].output, content))
        continues = content.endswith("\\") and (continues or content.startswith("$ "))
    return found


def _pattern(lines: list[str]) -> re.Pattern[str]:
    expressions = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()).replace("…", ".*") + r"[ \t]*\n"
        for line in lines
    ]
    return re.compile("".join(expressions))


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for name, real in names.items():
        text = text.replace(name, real)
    return text
