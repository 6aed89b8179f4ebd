# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents that people edit, or have in a file."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from . import output


def read_document(file: Path) -> bytes:
    """Return a file's content.

    :raises UsageError: when it cannot be read
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {file}: {error.strerror}", remedy="Name a file with a JSON object") from error


def edit(document: bytes, check: Callable[[bytes], None]) -> bytes | None:
    """Let somebody edit a document with ``$EDITOR`` until it is right; None when they give up.

    :param check: raises UsageError for a document that is not right
    :raises UsageError: when there is nobody at a terminal, or no editor
    """
    if not sys.stdin.isatty():
        raise UsageError("There is no terminal to edit the document at", remedy="Add -f with a file that has it")
    editor = os.environ.get("EDITOR") or "vi"
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="cvmfs-edit-"))
            file = Path(directory) / "document.json"
            file.write_bytes(document)
        except OSError as error:
            raise UsageError(
                f"Cannot write the document to a file in {tempfile.gettempdir()}: {error.strerror}",
                remedy="Make room there, set TMPDIR, or add -f with a file that has it",
            ) from error
        while True:
            try:
                subprocess.run([*shlex.split(editor), str(file)], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise UsageError(
                    f"The editor {editor} cannot be used: {error}", remedy="Set EDITOR, or add -f with a file"
                ) from error
            edited = read_document(file)
            try:
                check(edited)
            except UsageError as error:
                if not output.confirm(f"{error}\nEdit again (y/N)? "):
                    return None
            else:
                return edited
