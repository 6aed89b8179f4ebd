# SPDX-License-Identifier: GPL-3.0-or-later
"""List all tags; an old name of tag -l."""

from __future__ import annotations

import argparse
import sys

from . import tag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tag.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    code = tag.run(options)
    print(f"NOTE: cvmfs_server {options.command} is deprecated! Use cvmfs_server tag instead", file=sys.stderr)
    return code
