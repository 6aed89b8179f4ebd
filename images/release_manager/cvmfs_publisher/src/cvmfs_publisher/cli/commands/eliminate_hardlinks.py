# SPDX-License-Identifier: GPL-3.0-or-later
"""Make each name of a file that has several a file of its own."""

from __future__ import annotations

import argparse

from ...operations.eliminate_hardlinks import eliminate_hardlinks
from ..rewriting import add_arguments as add_arguments
from ..rewriting import run_rewrite


def run(options: argparse.Namespace) -> int:
    return run_rewrite(
        options, eliminate_hardlinks, "All hard links in {name} will be broken up, which cannot be undone."
    )
