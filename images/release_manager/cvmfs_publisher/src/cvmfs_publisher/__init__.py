# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing of CernVM-FS repositories without FUSE, union file system or privileges."""
