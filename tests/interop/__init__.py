# SPDX-License-Identifier: GPL-3.0-or-later
"""Does CernVM-FS's own software agree with this project's? Runs where it is installed, and is skipped elsewhere."""
