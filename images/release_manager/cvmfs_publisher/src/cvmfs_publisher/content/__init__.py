# SPDX-License-Identifier: GPL-3.0-or-later
"""Content: hash, compress, chunk, and the pipeline that runs them."""

from .chunker import Chunking
from .compression import Compression
from .digest_set import DigestSet
from .hash import ContentHash, HashAlgorithm, HashSuffix
from .objects import fetch_file, fetch_large_object, fetch_object, mapped, put_object, verify_object
from .pipeline import Chunk, ContentPipeline, ContentResult
from .source import BytesSource, ContentSource, FileSource

__all__ = [
    "BytesSource",
    "Chunk",
    "Chunking",
    "Compression",
    "ContentHash",
    "ContentPipeline",
    "ContentResult",
    "ContentSource",
    "DigestSet",
    "FileSource",
    "HashAlgorithm",
    "HashSuffix",
    "fetch_file",
    "fetch_large_object",
    "fetch_object",
    "mapped",
    "put_object",
    "verify_object",
]
