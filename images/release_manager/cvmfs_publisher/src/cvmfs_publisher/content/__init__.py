# SPDX-License-Identifier: GPL-3.0-or-later
"""Content: hash, compress, chunk, and the pipeline that runs them."""

from .compression import Compression
from .hash import ContentHash, HashAlgorithm, HashSuffix
from .objects import fetch_object, put_object

__all__ = ["Compression", "ContentHash", "HashAlgorithm", "HashSuffix", "fetch_object", "put_object"]
