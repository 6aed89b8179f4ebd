# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories of the operations' tests, used through the command line."""

from __future__ import annotations

from operations.conftest import local, source, template

__all__ = ["local", "source", "template"]
