# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing from container images: OCI layouts, tar files of them, and archives of docker save."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
import zstandard
from changes.repository import OWNER, TIMESTAMP, Repository, merge, mirror
from hypothesis import given, settings

from cvmfs_publisher.errors import SourceError, UnreadableSource, UnsafeArchive
from operations.managers import ReleaseManager
from operations.reading import published
from operations.test_apply_archives import archive

REFERENCE = "org.opencontainers.image.ref.name"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI image layout that is being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, data: bytes) -> dict[str, object]:
        """Store a blob, and return its descriptor."""
        (self.directory / "blobs" / digest_of(data).replace(":", "/")).write_bytes(data)
        return {"digest": digest_of(data), "size": len(data)}

    def image(self, layers: Sequence[bytes], compress: Callable[[bytes], bytes] = gzip.compress) -> dict[str, object]:
        config = {"rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}
        manifest = {
            "schemaVersion": 2,
            "config": self.put(json.dumps(config).encode()),
            "layers": [self.put(compress(layer)) for layer in layers],
        }
        return {"mediaType": "application/vnd.oci.image.manifest.v1+json", **self.put(json.dumps(manifest).encode())}

    def index(self, *manifests: dict[str, object]) -> bytes:
        return json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()

    def finish(self, *manifests: dict[str, object]) -> Path:
        (self.directory / "index.json").write_bytes(self.index(*manifests))
        return self.directory


def oci(directory: Path, layers: Sequence[bytes], compress: Callable[[bytes], bytes] = gzip.compress) -> Path:
    layout = Layout(directory / "oci")
    return layout.finish(layout.image(layers, compress))


def oci_archive(directory: Path, layers: Sequence[bytes]) -> Path:
    source = oci(directory, layers)
    with tarfile.open(directory / "oci.tar", "w") as writer:
        for path in sorted(source.rglob("*")):
            writer.add(path, path.relative_to(source), recursive=False)
    return directory / "oci.tar"


def docker_archive(directory: Path, layers: Sequence[bytes], tag: str = "localhost/test:latest") -> Path:
    """As docker saved images before version 25; a layer that is there already is a link to it."""
    config = {"rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}
    names = [f"layer-{number}/layer.tar" for number in range(len(layers))]
    with tarfile.open(directory / "docker.tar", "w") as writer:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))

        add("config.json", json.dumps(config).encode())
        for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
            if layer in layers[:number]:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, f"../{names[layers.index(layer)]}"
                writer.addfile(member)
            else:
                add(name, layer)
        add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode())
    return directory / "docker.tar"


FORMS = [oci, oci_archive, docker_archive]

LAYERS = [
    archive(
        ("directory", "bin", ""),
        ("file", "bin/tool", "tool 1"),
        ("hardlink", "bin/alias", "bin/tool"),
        ("symlink", "lib", "bin"),
        ("directory", "old", ""),
        ("file", "old/data", "data"),
        ("directory", "kept", ""),
        ("file", "kept/lower", "lower"),
    ),
    archive(
        ("file", ".wh.old", ""),
        ("file", "kept/.wh..wh..opq", ""),
        ("file", "kept/upper", "upper"),
        ("file", "bin/tool", "tool 2"),
        ("file", "new/deep/file", "x" * 300_000),
    ),
]
SEEN = {
    b"bin": None,
    b"bin/tool": b"tool 2",
    b"bin/alias": b"tool 1",
    b"lib": None,
    b"kept": None,
    b"kept/upper": b"upper",
    b"new": None,
    b"new/deep": None,
    b"new/deep/file": b"x" * 300_000,
}


def contents(repository: Repository) -> dict[bytes, bytes | None]:
    return {path: seen.content for path, seen in repository.seen(b"sw").items() if path}


@pytest.mark.parametrize("form", FORMS)
def test_layers(repository: Repository, tmp_path: Path, form: Callable[[Path, Sequence[bytes]], Path]) -> None:
    source = form(tmp_path, LAYERS)
    report = repository.publish(mirror(source, image=True))
    assert contents(repository) == SEEN
    seen = repository.seen(b"sw")
    assert (seen[b"lib"].target, seen[b"bin/alias"].names) == (b"bin", frozenset())
    assert (seen[b"bin/tool"].uid, seen[b"bin/tool"].gid) == (OWNER.uid, OWNER.gid)
    assert report.warnings == []
    # What nobody would see is not stored: here "lower", "data" and the lower layer's tool, but for its other name
    stored = {data for data in SEEN.values() if data is not None and len(data) < 1000}
    assert report.files == len(stored) + 1
    again = repository.publish(mirror(source, image=True))
    assert (again.changed, again.files) == (False, 0)


@pytest.mark.parametrize("compress", [lambda data: data, zstandard.compress], ids=["plain", "zstd"])
def test_compression(repository: Repository, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    repository.publish(mirror(oci(tmp_path, LAYERS, compress), image=True))
    assert contents(repository) == SEEN


def test_merge_and_owners(repository: Repository, tmp_path: Path) -> None:
    repository.publish(mirror(oci(tmp_path, [archive(("file", "mine", "1"))]), image=True))
    shutil.rmtree(tmp_path / "oci")
    source = oci(tmp_path, [archive(("file", "its", "2"), uid=7, gid=8)])
    repository.publish(merge(source, image=True, keep_ownership=True))
    assert contents(repository) == {b"mine": b"1", b"its": b"2"}
    assert repository.seen(b"sw")[b"its"].uid == 7


def test_same_layer_twice(repository: Repository, tmp_path: Path) -> None:
    layer = archive(("file", "a", "1"))
    repository.publish(mirror(docker_archive(tmp_path, [layer, archive(("file", ".wh.a", "")), layer]), image=True))
    assert contents(repository) == {b"a": b"1"}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # A file takes the place of a directory, and the other way round
        ([[("file", "a/b", "1")], [("file", "a", "2")]], {b"a": b"2"}),
        ([[("file", "a", "1")], [("file", "a/b", "2")]], {b"a": None, b"a/b": b"2"}),
        ([[("file", "a/b", "1")], [("symlink", "a", "c")], [("file", "c", "2")]], {b"a": None, b"c": b"2"}),
        # A directory that became a file, and a directory again
        ([[("file", "a/b", "1")], [("file", "a", "2")], [("directory", "a", ""), ("file", "a/c", "3")]],
         {b"a": None, b"a/c": b"3"}),
        ([[("file", "a/b", "1")], [("file", "a", "2")], [("file", "a/c", "3")]], {b"a": None, b"a/c": b"3"}),
        # A directory that was removed and made again
        ([[("file", "a/b", "1")], [("file", ".wh.a", ""), ("file", "a/c", "2")]], {b"a": None, b"a/c": b"2"}),
        ([[("file", "a/b", "1")], [("file", "a/c", "2"), ("file", ".wh.a", "")]], {b"a": None, b"a/c": b"2"}),
        # Whiteouts concern the layers below only, in whatever order
        ([[("file", "a", "1")], [("file", ".wh.a", "")], [("file", "a", "2")]], {b"a": b"2"}),
        ([[("file", "d/a", "1")], [("file", "d/b", "2"), ("file", "d/.wh..wh..opq", "")]], {b"d": None, b"d/b": b"2"}),
        ([[("file", "a", "1")], [("file", ".wh..wh..opq", "")]], {}),
        # What union file systems of old have left behind
        ([[("file", "a", "1"), ("file", ".wh..wh.aufs", ""), ("file", ".wh..wh.plnk/5.6", "")]], {b"a": b"1"}),
        # Hard links to a file that is hidden, or in a layer below
        ([[("file", "a", "1"), ("hardlink", "b", "a")], [("file", "a", "2")]], {b"a": b"2", b"b": b"1"}),
        ([[("file", "a", "1"), ("hardlink", "b", "a"), ("hardlink", "d/c", "a")], [("file", ".wh.a", "")]],
         {b"b": b"1", b"d": None, b"d/c": b"1"}),
        ([[("file", "a", "1"), ("file", "b", "0")], [("hardlink", "b", "a")]], {b"a": b"1", b"b": b"1"}),
        ([[("file", "a", "1")], [("hardlink", "b", "a"), ("file", ".wh.a", "")]], {b"b": b"1"}),
        ([[("symlink", "a", "x"), ("hardlink", "b", "a")], [("file", "a", "2")]], {b"a": b"2", b"b": None}),
    ],
)  # fmt: skip
def test_what_layers_hide(
    repository: Repository, tmp_path: Path, layers: list[list[tuple[str, str, object]]], expected: dict[bytes, bytes]
) -> None:
    source = oci(tmp_path, [archive(("file", "z", "z"), *members) for members in layers])
    repository.publish(mirror(source, image=True))
    assert contents(repository) == {b"z": b"z", **expected}


NAMES = ["a", "b", "c"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.tuples(st.just("file"), PATHS, st.text("xyz", max_size=3)),
    st.tuples(st.just("directory"), PATHS, st.just("")),
    st.tuples(st.just("whiteout"), PATHS, st.just("")),
    st.tuples(st.just("opaque"), PATHS, st.just("")),
)


def apply_layer(tree: dict[str, str | None], layer: list[tuple[str, str, str]]) -> None:
    """What a layer makes of a tree, by the specification: first it takes away, then it adds. None is a directory."""

    def remove(path: str, *, below: bool = False) -> None:
        for name in [name for name in tree if name.startswith(f"{path}/") or (name == path and not below)]:
            del tree[name]

    for kind, path, _ in layer:
        if kind in ("whiteout", "opaque"):
            remove(path, below=kind == "opaque")
    for kind, path, text in layer:
        if kind in ("file", "directory"):
            parts = path.split("/")
            for parent in ("/".join(parts[:count]) for count in range(1, len(parts))):
                if tree.get(parent) is not None:
                    remove(parent)
                tree.setdefault(parent, None)
            if kind == "file":
                remove(path)
                tree[path] = text
            elif tree.get(path) is not None or path not in tree:
                tree[path] = None


def is_consistent(layer: list[tuple[str, str, str]]) -> bool:
    """Whether a layer names each path once, and nothing below its own files."""
    paths = [path for kind, path, _ in layer if kind in ("file", "directory")]
    files = [path for kind, path, _ in layer if kind == "file"]
    return len(set(paths)) == len(paths) and not any(path.startswith(f"{file}/") for path in paths for file in files)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(MEMBERS, max_size=5).filter(is_consistent), min_size=1, max_size=4))
def test_random_layers(tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[str, str, str]]]) -> None:
    directory = tmp_path_factory.mktemp("image")
    expected: dict[str, str | None] = {}
    written = []
    for layer in layers:
        apply_layer(expected, layer)
        members = []
        for kind, path, text in layer:
            parent, _, name = path.rpartition("/")
            if kind == "whiteout":
                members.append(("file", f"{parent}/.wh.{name}".lstrip("/"), ""))
            elif kind == "opaque":
                members.append(("file", f"{path}/.wh..wh..opq", ""))
            else:
                members.append((kind, path, text))
        written.append(archive(*members))
    repository = Repository(directory / "repository")
    repository.publish(mirror(oci(directory, written), image=True, allow_empty=True))
    assert contents(repository) == {
        path.encode(): None if text is None else text.encode() for path, text in expected.items()
    }
    shutil.rmtree(directory)


def test_ingest(local: ReleaseManager, tmp_path: Path) -> None:
    source = docker_archive(tmp_path, LAYERS)
    options = (
        "ingest",
        "--image",
        source,
        "--image-reference",
        "localhost/test:latest",
        "--mirror",
        "-b",
        "sw",
        "--json",
    )
    assert local.server(*options).succeeded().document["changed"]
    assert published(local).tree[b"sw/bin/tool"].content == b"tool 2"
    assert not local.server(*options).succeeded().document["changed"]
    local.refuses("ingest", "--image", source, "--image-reference", "other", "-b", "sw", says=["no image", "other"])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("form", [oci_archive, docker_archive])
def test_compressed_archives(
    repository: Repository,
    tmp_path: Path,
    form: Callable[[Path, Sequence[bytes]], Path],
    compress: Callable[[bytes], bytes],
) -> None:
    source = form(tmp_path, LAYERS)
    source.write_bytes(compress(source.read_bytes()))
    repository.publish(mirror(source, image=True))
    assert contents(repository) == SEEN
    whole = source.read_bytes()
    for end in (8, len(whole) // 2, len(whole) - 20, len(whole) - 1):
        source.write_bytes(whole[:end])
        with pytest.raises(UnsafeArchive, match="is cut short"):
            repository.publish(mirror(source, image=True))


def test_an_image_on_standard_input(local: ReleaseManager, tmp_path: Path) -> None:
    source = docker_archive(tmp_path, LAYERS)
    for stdin in (source.read_bytes(), gzip.compress(source.read_bytes())):
        local.server("ingest", "--image", "-", "--mirror", "-b", "sw", stdin=stdin).succeeded()
        assert published(local).tree[b"sw/bin/tool"].content == b"tool 2"
        local.server("ingest", "-d", "sw").succeeded()


# Which image


def test_references_and_platforms(repository: Repository, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "oci")
    images = {name: layout.image([archive(("file", "name", name))]) for name in ("one", "mine", "foreign")}
    index = layout.index(
        {**images["mine"], "platform": {"os": "linux", "architecture": MACHINE}},
        {**images["foreign"], "platform": {"os": "linux", "architecture": "s390x"}},
        {**layout.image([]), "platform": {"os": "unknown", "architecture": "unknown"}},
    )
    many = {"mediaType": "application/vnd.oci.image.index.v1+json", **layout.put(index)}
    source = layout.finish(
        {**images["one"], "annotations": {REFERENCE: "1.0"}}, {**many, "annotations": {REFERENCE: "2.0"}}
    )
    for reference, name in (("1.0", b"one"), ("2.0", b"mine")):
        repository.publish(mirror(source, image=True, image_reference=reference))
        assert contents(repository) == {b"name": name}
    for reference, says in ((None, "several images"), ("3.0", "no image with the reference 3.0")):
        with pytest.raises(SourceError, match=rf"{says}.*references: 1\.0, 2\.0"):
            repository.publish(mirror(source, image=True, image_reference=reference))


def test_reference_of_docker(repository: Repository, tmp_path: Path) -> None:
    source = docker_archive(tmp_path, LAYERS)
    repository.publish(mirror(source, image=True, image_reference="localhost/test:latest"))
    assert contents(repository) == SEEN
    with pytest.raises(SourceError, match="references: localhost/test:latest"):
        repository.publish(mirror(source, image=True, image_reference="localhost/test:other"))


# Wrong images


def test_no_image(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("no tar file")
    (tmp_path / "archive").write_bytes(archive(("file", "a", "1")))
    for name in ("directory", "file", "archive"):
        with pytest.raises(UnsafeArchive, match=f"{name} is no image"):
            repository.publish(mirror(tmp_path / name, image=True))
    with pytest.raises(UnreadableSource, match="No such file"):
        repository.publish(mirror(tmp_path / "missing", image=True))


@pytest.mark.parametrize("form", FORMS)
def test_damage(repository: Repository, tmp_path: Path, form: Callable[[Path, Sequence[bytes]], Path]) -> None:
    """Whatever byte of a layer is another one, the image is refused."""
    source = form(tmp_path, [archive(("file", "a", "the content"))])
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    damaged = 0
    for file in files:
        data = file.read_bytes()
        for position in range(0, len(data), 397):
            file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            try:
                repository.publish(mirror(source, image=True))
            except SourceError:
                damaged += 1
            else:
                assert contents(repository) == {b"a": b"the content"}
        file.write_bytes(data)
    assert damaged > 1


@pytest.mark.parametrize("form", FORMS)
def test_cut_short(repository: Repository, tmp_path: Path, form: Callable[[Path, Sequence[bytes]], Path]) -> None:
    source = form(tmp_path, LAYERS)
    files = (source / "blobs/sha256").iterdir() if source.is_dir() else [source]
    file = max(files, key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UnsafeArchive):
        repository.publish(mirror(source, image=True))


def test_missing_layer(repository: Repository, tmp_path: Path) -> None:
    source = oci(tmp_path, LAYERS)
    max((source / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(UnsafeArchive, match="lacks blobs/sha256/"):
        repository.publish(mirror(source, image=True))


def test_link_to_nothing(repository: Repository, tmp_path: Path) -> None:
    source = oci(tmp_path, [archive(("hardlink", "a", "b"))])
    with pytest.raises(UnsafeArchive, match=r"'a' .* hard link to 'b', which no layer has"):
        repository.publish(mirror(source, image=True))


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"manifests": [{}]}',
        '{"manifests": [{"digest": "md5:00"}]}',
        '{"manifests": [{"digest": "sha256:../../x"}]}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_bad_index(repository: Repository, tmp_path: Path, index: str) -> None:
    source = oci(tmp_path, LAYERS)
    (source / "index.json").write_text(index, "latin-1")
    with pytest.raises(SourceError):
        repository.publish(mirror(source, image=True))


def test_time_of_implied_directories(repository: Repository, tmp_path: Path) -> None:
    """A layer that has a directory's own attributes gives them to it, though one above only has something in it."""
    lower = archive(("directory", "d", ""), mtime=TIMESTAMP - 1000)
    repository.publish(mirror(oci(tmp_path, [lower, archive(("file", "d/f", "1"))]), image=True))
    assert repository.seen(b"sw")[b"d"].mtime_ns == (TIMESTAMP - 1000) * 10**9


def written(directory: Path, files: dict[str, bytes], links: dict[str, str], *, packed: bool) -> Path:
    """Write what claims to be an archive of docker save: unpacked, or not."""
    if not packed:
        (directory / "image").mkdir()
        for name, data in files.items():
            (directory / "image" / name).write_bytes(data)
        for name, target in links.items():
            (directory / "image" / name).symlink_to(target)
        return directory / "image"
    with tarfile.open(directory / "docker.tar", "w") as writer:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            writer.addfile(member)
    return directory / "docker.tar"


DIGEST = digest_of(LAYERS[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("layer", "digest", "links"),
    [
        (None, DIGEST, {}),
        (5, DIGEST, {}),
        ("a\0b", DIGEST, {}),
        ("\ud800", DIGEST, {}),
        ("/config.json", DIGEST, {}),
        ("../config.json", DIGEST, {}),
        ("layer.tar", DIGEST, {"layer.tar": "nowhere"}),
        ("layer.tar", None, {}),
        ("layer.tar", "md5:00", {}),
    ],
)
def test_bad_names_of_layers(
    repository: Repository, tmp_path: Path, layer: object, digest: object, links: dict[str, str], *, packed: bool
) -> None:
    files = {
        "config.json": json.dumps({"rootfs": {"diff_ids": [digest]}}).encode(),
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": [layer]}]).encode(),
        **({} if links else {"layer.tar": LAYERS[0]}),
    }
    with pytest.raises(UnsafeArchive):
        repository.publish(mirror(written(tmp_path, files, links, packed=packed), image=True))


def test_link_to_itself(repository: Repository, tmp_path: Path) -> None:
    source = written(tmp_path, {}, {"manifest.json": "manifest.json"}, packed=True)
    with pytest.raises(UnsafeArchive, match=r"lacks manifest\.json"):
        repository.publish(mirror(source, image=True))


def test_nothing_outside_of_the_directory_is_read(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.tar").write_bytes(LAYERS[0])
    files = {
        "config.json": json.dumps({"rootfs": {"diff_ids": [DIGEST]}}).encode(),
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": None, "Layers": [str(tmp_path / "elsewhere.tar")]}]
        ).encode(),
    }
    with pytest.raises(UnsafeArchive, match=r"lacks .*elsewhere\.tar"):
        repository.publish(mirror(written(tmp_path, files, {}, packed=False), image=True))


def test_special_files_that_are_left_out_hide_what_is_below(repository: Repository, tmp_path: Path) -> None:
    layers = [archive(("file", "a", "1"), ("file", "b", "1")), archive(("fifo", "a", ""))]
    repository.publish(mirror(oci(tmp_path, layers), image=True), ignore_special_files=True)
    assert contents(repository) == {b"b": b"1"}
