# SPDX-License-Identifier: GPL-3.0-or-later
"""Refer to files that are stored in chunks by their chunks only."""

from __future__ import annotations

import argparse

from ...operations.eliminate_bulk_hashes import eliminate_bulk_hashes
from ..rewriting import add_arguments as add_arguments
from ..rewriting import run_rewrite


def run(options: argparse.Namespace) -> int:
    return run_rewrite(
        options,
        eliminate_bulk_hashes,
        "Clients before 2.1.7 cannot read large files of {name} then. This cannot be undone.",
    )
