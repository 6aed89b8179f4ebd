# SPDX-License-Identifier: GPL-3.0-or-later
"""Content from a container image: what a container of it would see as its root directory.

Formats: OCI Image Layout and OCI Image Layer Filesystem Changeset (image-spec 1.1), as a directory or a tar file of it
(``oci:`` and ``oci-archive:`` of skopeo and podman), and the archive of ``docker save`` (Docker Image Specification
1.2; ``docker-archive:``).

Layers are read from the top down. So what a layer hides of those below is known before these are read, each is
read once, and nothing is stored that nobody would see.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import stat
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack, cast

from ..errors import SourceError, UnreadableSource, UnsafeArchive
from ..paths import ROOT, display, join
from ..paths import name as name_of
from ..paths import parent as parent_of
from .archive import ContentSink, TarOptions, TarSource, member_path
from .decompress import InterruptibleStream, open_tar_stream
from .special import special_kind
from .tar_format import TRANSFER, Member, TarReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."

_MAX_JSON = 4 << 20
"""Bytes of a document in an image; the OCI's own limit for manifests."""
_BUFFER = 1 << 20

_REFERENCE = "org.opencontainers.image.ref.name"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_COPY = "Copy it with 'skopeo copy' or 'podman save', and publish the copy"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image.

    :param file: where the image has it
    :param digest: ``algorithm:hex`` of the file as it is, or, in docker archives, of the tar archive in it
    :param is_of_archive: which of these
    """

    file: str
    digest: str
    is_of_archive: bool


class Image:
    """A container image in a directory or a tar file.

    :param source: the directory or the file
    :param label: names it in messages
    :param reference: which image of several; by default there must be only one
    :raises SourceError: when there is no such image, or it is damaged
    :raises UnreadableSource: when the system cannot read it
    """

    def __init__(self, source: Path, label: str, reference: str | None = None) -> None:
        self._source = source
        self._label = label
        self._reference = reference
        self._archive: tarfile.TarFile | None = None
        if not source.is_dir():
            try:
                self._archive = tarfile.open(source, "r:")  # noqa: SIM115  (close does it)
            except OSError as error:
                raise UnreadableSource(
                    f"Cannot read {self}: {error.strerror}", remedy="Name a file that the publishing user may read"
                ) from error
            except tarfile.TarError:
                raise self._error("is no image: neither a directory, nor a tar file") from None
        try:
            self.layers = self._oci_layers() if self._has("oci-layout") else self._docker_layers()
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            self.close()
            raise self._error(f"has a damaged description: {error!r}") from None
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"image {self._label}"

    def open(self, layer: Layer) -> BinaryIO:
        """Open a layer as it is stored."""
        return self._open(layer.file)

    def close(self) -> None:
        """Close the file."""
        if self._archive is not None:
            self._archive.close()

    # Which image

    def _oci_layers(self) -> list[Layer]:
        manifest = self._json_blob(self._choose(self._json("index.json")["manifests"], self._reference)["digest"])
        digests = [layer["digest"] for layer in manifest["layers"]]
        return [Layer(_blob(digest), digest, is_of_archive=False) for digest in digests]

    def _choose(self, descriptors: Sequence[Mapping[str, Any]], reference: str | None) -> Mapping[str, Any]:
        """Return the descriptor of the one image that is meant."""
        found = [item for item in descriptors if item.get("platform", {}).get("os") != "unknown"]  # attestations
        if reference is not None:
            found = [item for item in found if (item.get("annotations") or {}).get(_REFERENCE) == reference]
        if len(found) > 1 and all("platform" in item for item in found):
            machine = platform.machine()
            wanted = ("linux", _ARCHITECTURES.get(machine, machine))
            found = [item for item in found if (item["platform"]["os"], item["platform"]["architecture"]) == wanted]
        if len(found) != 1:
            names = {(item.get("annotations") or {}).get(_REFERENCE) for item in descriptors}
            raise self._not_one(found, names)
        (chosen,) = found
        if chosen.get("mediaType") in _INDEXES:
            return self._choose(self._json_blob(chosen["digest"])["manifests"], None)
        return chosen

    def _docker_layers(self) -> list[Layer]:
        if not self._has("manifest.json"):
            raise self._error("is no image: it has neither oci-layout nor manifest.json")
        images = self._json("manifest.json")
        found = [item for item in images if self._reference is None or self._reference in (item["RepoTags"] or ())]
        if len(found) != 1:
            raise self._not_one(found, {tag for item in images for tag in item["RepoTags"] or ()})
        digests = self._json(found[0]["Config"])["rootfs"]["diff_ids"]
        files = found[0]["Layers"]
        if len(digests) != len(files):
            raise self._error(f"has {len(files)} layers, and the digests of {len(digests)}")
        if not all(isinstance(file, str) for file in files):
            raise self._error("has a layer whose name is none")
        for digest in digests:
            _hash(digest)
        return [Layer(file, digest, is_of_archive=True) for file, digest in zip(files, digests, strict=True)]

    def _not_one(self, found: Sequence[object], names: Collection[str | None]) -> SourceError:
        """Return the error that there is not one image to choose.

        :param names: of all that there are
        """
        wanted = "for this machine" if self._reference is None else f"with the reference {self._reference}"
        known = ", ".join(sorted(name for name in names if name)) or "none"
        return SourceError(
            f"{self} has {'several images' if found else 'no image'} {wanted}; there are these references: {known}",
            remedy="Give the reference of one, or copy the one alone with 'skopeo copy'",
        )

    # Files

    def _json_blob(self, digest: str) -> Any:
        return self._json(_blob(digest), digest)

    def _json(self, name: str, digest: str | None = None) -> Any:
        with self._open(name) as stream:
            data = stream.read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise self._error(f"has a description of more than {_MAX_JSON} bytes: {name}")
        if digest is not None and not _Digested(io.BytesIO(data), digest).is_right():
            raise self._error(f"is damaged: {name} is not what its name says")
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self._error(f"is damaged: {name} is not JSON") from None

    def _has(self, name: str) -> bool:
        if self._archive is not None:
            return self._member(name) is not None
        return (self._source / name).is_file()

    def _member(self, name: str) -> tarfile.TarInfo | None:
        assert self._archive is not None
        try:
            for written in (name, f"./{name}"):
                with contextlib.suppress(KeyError):
                    return self._archive.getmember(written)
        except (tarfile.TarError, EOFError):
            raise self._error("is damaged, or cut short") from None
        return None

    def _open(self, name: str) -> BinaryIO:
        if self._archive is not None:
            member = self._member(name)
            if member is not None:
                # A link, as docker saves a layer that two images share, may lead nowhere, or to itself
                with contextlib.suppress(KeyError, RecursionError):
                    stream = self._archive.extractfile(member)
                    if stream is not None:
                        return cast(BinaryIO, stream)
        elif ".." not in Path(name).parts and not Path(name).is_absolute():
            try:
                return open(self._source / name, "rb")
            except (FileNotFoundError, ValueError):  # the latter for names that no file can have
                pass
            except OSError as error:
                raise UnreadableSource(
                    f"Cannot read {name} of {self}: {error.strerror}",
                    remedy="Name an image that the publishing user may read",
                ) from error
        raise self._error(f"lacks {name}")

    def _error(self, problem: str) -> UnsafeArchive:
        return UnsafeArchive(f"{self} {problem}", remedy=_COPY)


class ImageSource(TarSource):
    """What a container of an image would see as its root directory.

    :param image: closed with the source
    :param label: as for `TarSource`, and so are the rest
    """

    def __init__(self, image: Image, label: str, scratch_dir: Path, **options: Unpack[TarOptions]) -> None:
        super().__init__(label, scratch_dir, **options)
        self._image = image
        self._reading: InterruptibleStream | None = None
        self._whiteouts: set[bytes] = set()
        """Paths that lower layers do not show."""
        self._opaque: set[bytes] = set()
        """Directories of whose content lower layers show nothing."""
        self._upper = 0
        """The inodes of upper layers go up to this one."""
        self._dangling: dict[bytes, list[bytes]] = {}
        """Hard links to a file which is hidden itself, or in a lower layer, by its path."""
        self._shown_below: dict[bytes, bool] = {}

    def verify(self) -> None:
        """All that is read is compared with its digest at once."""

    def close(self) -> None:
        """Remove the database, and end the reading of the image, which another thread may still be at."""
        if self._reading is not None:
            self._reading.stop()
        super().close()
        self._image.close()

    def _load(self, sink: ContentSink | None) -> None:
        for layer in reversed(self._image.layers):
            self._shown_below.clear()
            self._upper = self._inode
            whiteouts: set[bytes] = set()
            opaque: set[bytes] = set()
            for reader, path, member in self._members(layer):
                name = name_of(path)
                if name == _OPAQUE:
                    opaque.add(parent_of(path))
                elif any(component.startswith(_RESERVED) for component in path.split(b"/")):
                    pass  # what aufs kept for itself
                elif name.startswith(_WHITEOUT):
                    whiteouts.add(join(parent_of(path), name.removeprefix(_WHITEOUT)))
                elif self._is_shown(path, member.mode):
                    if member.is_hard_link and not self._is_of_this_layer(target := member_path(reader, member.link)):
                        self._dangling.setdefault(target, []).append(path)
                        whiteouts.add(path)  # the place is taken
                    else:
                        self._take(reader, path, member, sink)
                        if special_kind(member.mode):
                            whiteouts.add(path)  # it hides what is below also where it is left out
                else:
                    self._imply_directories(reader, path)
                    if path in self._directories and not stat.S_ISDIR(member.mode):
                        whiteouts.add(path)  # a directory of an upper layer, which replaced this, began empty
            if self._dangling:
                self._mend_links(layer, sink)
            self._whiteouts |= whiteouts
            self._opaque |= opaque
        if self._dangling:
            target, (path, *_) = min(self._dangling.items())
            raise UnsafeArchive(
                f"{display(path)!r} in {self._label} is a hard link to {display(target)!r}, which no layer has",
                remedy=_COPY,
            )

    def _mend_links(self, layer: Layer, sink: ContentSink | None) -> None:
        """Give hard links the file that they mean, if it is in the layer, though it may be hidden."""
        for reader, path, member in self._members(layer):
            if path in self._dangling and not stat.S_ISDIR(member.mode) and not member.is_hard_link:
                links = self._dangling.pop(path)
                if not self._is_of_this_layer(path):
                    path = links.pop()
                    self._take(reader, path, member, sink)
                for link in links:
                    self._make_room(reader, link, is_directory=False)
                    self._link(reader, link, path)

    def _is_of_this_layer(self, path: bytes) -> bool:
        """Whether there is a file at `path` that the current layer has brought."""
        found = self._look_up(path)
        return found is not None and not found.is_directory and cast(int, found.link_group) > self._upper

    def _imply_directories(self, reader: TarReader, path: bytes) -> None:
        """See that the directories are there that a hidden member is in, as far as they are not hidden."""
        directory = parent_of(path)
        while directory != ROOT and not self._is_shown(directory, stat.S_IFDIR):
            directory = parent_of(directory)
        self._make_directory(reader, directory)

    def _is_shown(self, path: bytes, mode: int) -> bool:
        """Whether upper layers let what the current one has at `path` be seen, which is of this type."""
        if path == ROOT:
            return self._root.implied
        if path in self._whiteouts or not self._shows_below(parent_of(path)):
            return False
        found = self._look_up(path)
        if found is None or (not found.implied and cast(int, found.link_group) > self._upper):
            return True
        return found.implied and stat.S_ISDIR(mode)

    def _shows_below(self, directory: bytes) -> bool:
        """Whether upper layers let what the current one has in a directory be seen."""
        shown = self._shown_below.get(directory)
        if shown is None:
            found = self._look_up(directory) if directory else None
            shown = (
                directory not in self._opaque
                and directory not in self._whiteouts
                and (found is None or found.is_directory or cast(int, found.link_group) > self._upper)
                and (directory == ROOT or self._shows_below(parent_of(directory)))
            )
            self._shown_below[directory] = shown
        return shown

    def _members(self, layer: Layer) -> Iterator[tuple[TarReader, bytes, Member]]:
        """Yield the members of a layer with their paths, and compare its digest at the end."""
        label = f"Layer {layer.digest} of {self._label}"
        with self._image.open(layer) as stream:
            self._reading = InterruptibleStream(stream)
            if layer.is_of_archive:
                digested = _Digested(open_tar_stream(self._reading, label), layer.digest)
                archive = cast(BinaryIO, io.BufferedReader(digested, _BUFFER))
            else:
                digested = _Digested(cast(BinaryIO, self._reading), layer.digest)
                archive = open_tar_stream(cast(BinaryIO, digested), label)
            reader = TarReader(archive, label)
            try:
                for member in reader:
                    yield reader, member_path(reader, member.name), member
                if not digested.is_right():
                    raise UnsafeArchive(f"{label} is damaged: that is not its digest", remedy=TRANSFER)
            finally:
                self._reading.stop()


class _Digested(io.RawIOBase):
    """A stream that is compared with a digest when it has been read."""

    def __init__(self, stream: BinaryIO, digest: str) -> None:
        super().__init__()
        self._stream = stream
        self._digest = digest
        self._hash = _hash(digest)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._stream.read(len(view)) or b""
        self._hash.update(data)
        view[: len(data)] = data
        return len(data)

    def is_right(self) -> bool:
        """Read what is left, and say whether all of it is what the digest says."""
        while self.read(_BUFFER):
            pass
        return f"{self._digest.partition(':')[0]}:{self._hash.hexdigest()}" == self._digest


def _hash(digest: str) -> hashlib._Hash:
    algorithm, _, value = digest.partition(":")
    if algorithm not in ("sha256", "sha512") or not value.isalnum():
        raise UnsafeArchive(f"{digest!r} is not a digest of sha256 or sha512", remedy=_COPY)
    return hashlib.new(algorithm)


def _blob(digest: str) -> str:
    _hash(digest)
    return "blobs/" + digest.replace(":", "/")
