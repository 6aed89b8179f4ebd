# SPDX-License-Identifier: GPL-3.0-or-later
"""Nested catalogs that nobody marked by hand: .cvmfsdirtab, automatic balance, and limits."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from changes.repository import OWNER, Repository, delete, make, merge, mirror
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfs_publisher.changes.limits import Limits
from cvmfs_publisher.changes.options import Balance
from cvmfs_publisher.errors import SourceError

MARKER = b".cvmfscatalog"
AUTO = b".cvmfsautocatalog"
RULES = "/sw/*\n! /sw/common\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def catalogs(repository: Repository) -> set[bytes]:
    """Return the directories of all nested catalogs."""
    return {path.removeprefix(b"/") for path in repository.judgement().catalogs} - {b""}


# .cvmfsdirtab


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(
        tmp_path / "source",
        {".cvmfsdirtab": RULES, "sw/a/file": "a", "sw/b/lib/file": "b", "sw/common/file": "c", "sw/file": "f"},
    )


def tar(**members: str | bytes | tuple[str, str]) -> bytes:
    """Return an archive; pairs are links of a kind to a target. Two underscores stand for a slash."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, what in members.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("DIRTAB", ".cvmfsdirtab"))
            if isinstance(what, tuple):
                info.type = {"hard": tarfile.LNKTYPE, "symbolic": tarfile.SYMTYPE}[what[0]]
                info.linkname = what[1]
                archive.addfile(info)
            else:
                data = what.encode() if isinstance(what, str) else what
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_rules_make_markers(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, ""))
    assert catalogs(repository) == {b"sw/a", b"sw/b"}
    marker = repository.judgement().rows[b"/sw/a/" + MARKER]
    assert (marker.size, marker.mode, marker.uid, marker.gid) == (0, stat.S_IFREG | 0o644, OWNER.uid, OWNER.gid)


def test_new_rules_reach_what_was_there(repository: Repository, source: Path, tmp_path: Path) -> None:
    (source / ".cvmfsdirtab").unlink()
    repository.publish(mirror(source, ""))
    assert catalogs(repository) == set()
    report = repository.publish(
        merge(make(tmp_path / "rules", {".cvmfsdirtab": RULES + "/sw/b/*\n/sw/[b]\n/none/*"}), "")
    )
    assert catalogs(repository) == {b"sw/a", b"sw/b", b"sw/b/lib"}
    assert report.warnings == ["There is no directory that /none/* in /.cvmfsdirtab means"]


def test_rules_stay_in_force(repository: Repository, source: Path, tmp_path: Path) -> None:
    """For what later changes bring: directories, archives, and directories made on the way to a base directory."""
    repository.publish(mirror(source, ""))
    repository.publish(merge(make(tmp_path / "later", {"file": ""}), "sw/c"))
    repository.publish(merge("-", "sw"), stdin=tar(d__file="d"))
    repository.publish(merge(make(tmp_path / "deep", {"file": ""}), "sw/e/on/the/way"))
    assert catalogs(repository) == {b"sw/a", b"sw/b", b"sw/c", b"sw/d", b"sw/e"}


def test_a_removed_marker_comes_back(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, ""))
    report = repository.publish(delete("sw/a/.cvmfscatalog"))
    assert catalogs(repository) == {b"sw/a", b"sw/b"}
    (warning,) = report.warnings
    assert warning.startswith("The marker /sw/a/.cvmfscatalog was removed, but stays, as /.cvmfsdirtab means that")
    assert repository.publish(delete("sw/a")).warnings == []


def test_removed_rules_leave_markers(repository: Repository, source: Path) -> None:
    repository.publish(mirror(source, ""))
    repository.publish(delete(".cvmfsdirtab"))
    assert catalogs(repository) == {b"sw/a", b"sw/b"}
    repository.publish(delete("sw/a/.cvmfscatalog"))
    assert catalogs(repository) == {b"sw/b"}


def test_rules_in_chunks(repository: Repository, source: Path) -> None:
    (source / ".cvmfsdirtab").write_text(RULES + "# " + "long" * 100_000)
    repository.publish(mirror(source, ""))
    assert len(repository.judgement().rows[b"/.cvmfsdirtab"].chunks) > 1
    (source / "sw/c").mkdir()
    repository.publish(merge(source / "sw"))
    assert catalogs(repository) == {b"sw/a", b"sw/b", b"sw/c"}


def test_rules_in_a_hard_link(repository: Repository, source: Path) -> None:
    os.link(source / ".cvmfsdirtab", source / ".another-name")
    repository.publish(mirror(source, ""))
    assert catalogs(repository) == {b"sw/a", b"sw/b"}
    repository.publish(merge("-", "sw"), stdin=tar(c__file=""))
    assert catalogs(repository) == {b"sw/a", b"sw/b", b"sw/c"}


@pytest.mark.parametrize("size", [0, 300_000], ids=["one object", "chunks"])
def test_rules_in_an_archives_hard_link(repository: Repository, size: int) -> None:
    archive = tar(sw__a__rules=RULES + "#" * size, DIRTAB=("hard", "sw/a/rules"), sw__b__file="")
    report = repository.preview(merge("-", ""), stdin=archive)
    assert [text for text in report.warnings if "is a hard link" in text and "this dry run" in text]
    repository.publish(merge("-", ""), stdin=archive)
    assert catalogs(repository) == {b"sw/a", b"sw/b"}


def test_rules_behind_a_symbolic_link(repository: Repository, source: Path) -> None:
    """CernVM-FS takes none from it, and says nothing; we say so."""
    (source / ".cvmfsdirtab").rename(source / "rules")
    (source / ".cvmfsdirtab").symlink_to("rules")
    for what in (mirror(source, ""), merge(source / "sw", "more")):
        report = repository.publish(what)
        assert catalogs(repository) == set()
        (warning,) = report.warnings
        assert "/.cvmfsdirtab is no regular file" in warning


def test_too_many_rules(repository: Repository, source: Path) -> None:
    (source / ".cvmfsdirtab").write_bytes(b"#" * (5 << 20))
    with pytest.raises(SourceError, match="too large for a list of rules"):
        repository.publish(mirror(source, ""))


def test_bad_rules_that_are_published_already(repository: Repository, source: Path, tmp_path: Path) -> None:
    """Nothing is published on top of them, but for what replaces them."""
    outer = tmp_path / "outer"
    outer.mkdir()
    make(tmp_path / "bad", {"x": "no rule\n"})
    with repository.tree() as tree:
        repository.commit(tree)
    repository.publish(merge(make(tmp_path / "good", {".cvmfsdirtab": "/sw/*"}), ""))
    entry = repository.judgement().rows[b"/.cvmfsdirtab"]
    repository.publish(merge(tmp_path / "bad", "place"))
    bad = repository.judgement().rows[b"/place/x"]
    with repository.tree() as tree:
        published = tree.entry(b"place/x")
        assert published is not None
        tree.replace(b".cvmfsdirtab", published)
        repository.commit(tree)
    assert repository.judgement().rows[b"/.cvmfsdirtab"].hash == bad.hash != entry.hash
    with pytest.raises(SourceError, match=r"Line 1 of /\.cvmfsdirtab is no rule"):
        repository.publish(merge(source / "sw"))
    repository.publish(merge(source, ""))
    assert catalogs(repository) == {b"sw/a", b"sw/b"}
    with repository.tree() as tree:
        published = tree.entry(b"place/x")
        assert published is not None
        tree.replace(b".cvmfsdirtab", published)
        repository.commit(tree)
    repository.publish(delete(".cvmfsdirtab"))


def test_unchanged_rules_cost_nothing(repository: Repository, tmp_path: Path) -> None:
    """Other directories that they mean are not looked at."""
    names = {f"sw/v{number}/file": "" for number in range(20)}
    repository.publish(mirror(make(tmp_path / "source", {".cvmfsdirtab": "/sw/*", **names}), ""))
    fetched: list[str] = []
    stored = repository.objects()
    get = repository.store.get

    def counting_get(key: str) -> bytes:
        fetched.append(key)
        return get(key)

    repository.store.get = counting_get  # type: ignore[method-assign]
    repository.publish(merge(make(tmp_path / "more", {"more": ""}), "sw/v7"))
    assert len([key for key in fetched if key.endswith("C")]) == 2
    assert len([key for key in repository.objects() - stored if key.endswith("C")]) == 2


# Balance

Shape = Mapping[str, "int | Shape"]
"""Directories by name: how many files they have, or what is in them."""


def build(directory: Path, shape: Shape) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, inside in shape.items():
        if isinstance(inside, int):
            (directory / name).mkdir()
            for number in range(inside):
                (directory / name / f"f{number}").touch()
        else:
            build(directory / name, inside)
    return directory


SPLIT = Balance(20, 9)


def test_large_catalogs_are_divided(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"a": 12, "b": 7, "c": {"x": 9, "y": 2}, "d": 3})
    report = repository.publish(mirror(source, ""), balance=SPLIT)
    assert catalogs(repository) == {b"a", b"c/x"}
    assert repository.seen()[b"a/" + AUTO].mode == stat.S_IFREG | 0o600
    assert repository.seen()[b"a/" + MARKER].content == b""
    assert report.warnings == [
        f"/{path} brings {weight} entries into one catalog, more than 10, and has no subdirectory of at least 9 "
        "entries that could have a catalog of its own"
        for path, weight in (("a", 13), ("", 19))
    ]


def test_markers_belong_to_the_directorys_owner(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"a": 30})
    os.chown(source / "a", 71, 72)
    repository.publish(mirror(source, ""), balance=SPLIT)
    seen = repository.seen()
    assert {(seen[b"a/" + name].uid, seen[b"a/" + name].gid) for name in (MARKER, AUTO)} == {(71, 72)}


def test_small_catalogs_are_merged_again(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"a": 12, "b": 12, "c": 12})
    (source / "c" / ".cvmfscatalog").touch()
    repository.publish(mirror(source, ""), balance=SPLIT)
    assert catalogs(repository) == {b"a", b"b", b"c"}
    for path in [*source.glob("a/*"), *source.glob("c/f*")]:
        path.unlink()
    repository.publish(mirror(source, ""), balance=SPLIT)
    assert catalogs(repository) == {b"b", b"c"}, "that made by hand stays, and so does the one that is still large"
    assert AUTO not in {path.rpartition(b"/")[2] for path in repository.seen(b"a")}


def test_a_mirror_leaves_automatic_catalogs_alone(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"a": 12, "b": 12})
    repository.publish(mirror(source, ""), balance=SPLIT)
    assert not repository.publish(mirror(source, ""), balance=SPLIT).changed
    repository.publish(mirror(source, ""))
    assert catalogs(repository) == set(), "without balance, a mirror is like its source"


def test_only_changed_catalogs_are_balanced(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"old": {"a": 30}, "new": {"a": 3}})
    for name in ("old", "new"):
        (source / name / ".cvmfscatalog").touch()
    repository.publish(mirror(source, ""))
    repository.publish(merge(build(tmp_path / "more", {"b": 30}), "new"), balance=SPLIT)
    assert catalogs(repository) == {b"old", b"new", b"new/b"}


def test_a_dry_run_balances_too(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"a": 12, "b": 12})
    predicted = repository.preview(mirror(source, ""), balance=SPLIT)
    done = repository.publish(mirror(source, ""), balance=SPLIT)
    assert predicted.added.paths == done.added.paths
    assert b"a/" + AUTO in done.added.paths


shapes: st.SearchStrategy[Shape] = st.recursive(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 14), max_size=4),
    lambda inner: st.dictionaries(st.sampled_from("abcde"), st.one_of(st.integers(0, 14), inner), max_size=4),
    max_leaves=8,
)


def model(shape: Shape, maximum: int, minimum: int) -> set[bytes]:
    """Return the nested catalogs of a tree that is published at once, as CernVM-FS's documentation has them."""
    found: set[bytes] = set()
    nested: set[str] = set()

    def weight_of(path: str, inside: int | Shape) -> int:
        if isinstance(inside, int):
            return 1 + inside
        weights = {f"{path}/{name}": weight_of(f"{path}/{name}", below) for name, below in inside.items()}
        weight = 1 + sum(weights.values())
        while weight > maximum // 2:
            left = {child: its for child, its in weights.items() if child not in nested}
            heaviest = min(left, key=lambda child: (-left[child], child), default=None)
            if heaviest is None or left[heaviest] < minimum:
                break
            nested.add(heaviest)
            found.add(heaviest.removeprefix("/").encode())
            weight -= left[heaviest] - 1
        return weight

    def entries(inside: int | Shape) -> int:
        return 1 + (inside if isinstance(inside, int) else sum(map(entries, inside.values())))

    if entries(shape) > maximum:
        weight_of("", shape)
    return found


@settings(max_examples=20, deadline=None)
@given(shape=shapes, maximum=st.integers(2, 40), minimum=st.integers(1, 12))
def test_balance_is_that_of_the_model(shape: Shape, maximum: int, minimum: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        repository = Repository(Path(directory, "repository"))
        weights = Balance(maximum, min(minimum, maximum))
        repository.publish(mirror(build(Path(directory, "source"), shape), "", allow_empty=True), balance=weights)
        assert catalogs(repository) == model(shape, maximum, weights.min_weight)
        names = {path for path in repository.seen() if not path.endswith((MARKER, AUTO))}
        assert names == {os.fsencode(path) for path in _paths(shape)}


def _paths(shape: Shape, at: str = "") -> Iterator[str]:
    yield at
    for name, inside in shape.items():
        path = f"{at}/{name}" if at else name
        if isinstance(inside, int):
            yield path
            yield from (f"{path}/f{number}" for number in range(inside))
        else:
            yield from _paths(inside, path)


# Limits


def test_large_files(repository: Repository, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"small": b"x" * (2 << 20), "large": b"x" * (3 << 20)})
    limits = Limits(file_mbyte=2)
    report = repository.publish(mirror(source), limits=limits)
    assert report.warnings == [
        "/sw/large has 3 megabytes; CVMFS_FILE_MBYTE_LIMIT is 2. Split or leave out the file, or raise the limit."
    ]
    assert repository.publish(mirror(source), limits=limits).warnings == [], "it is not published again"


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_large_files_are_refused(repository: Repository, tmp_path: Path, kind: str) -> None:
    limits = Limits(file_mbyte=2, enforced=True)
    source = make(tmp_path / "source", {"large": b"x" * (3 << 20)})
    change = mirror(source) if kind == "directory" else merge("-")
    with pytest.raises(SourceError, match="/sw/large has 3 megabytes; CVMFS_FILE_MBYTE_LIMIT is 2"):
        repository.publish(change, stdin=tar(large=b"x" * (3 << 20)), limits=limits)
    assert repository.objects() == set()


@pytest.mark.parametrize(
    ("nested", "limits", "expected"),
    [
        (
            False,
            Limits(root_kcatalog=1),
            ["The catalog of / has 1003 entries; CVMFS_ROOT_KCATALOG_LIMIT is 1 thousand"],
        ),
        (True, Limits(nested_kcatalog=1), ["of /sw has 1002 entries; CVMFS_NESTED_KCATALOG_LIMIT is 1 thousand"]),
        (True, Limits(root_kcatalog=1), []),
        (False, Limits(root_kcatalog=0, nested_kcatalog=0, file_mbyte=0, enforced=True), []),
        (False, Limits(), []),
    ],
)
def test_large_catalogs(
    repository: Repository, tmp_path: Path, nested: bool, limits: Limits, expected: list[str]
) -> None:
    source = build(tmp_path / "source", {"many": 1000 - nested})
    report = repository.publish(mirror(source, nested_catalog=nested), limits=limits)
    assert len(report.warnings) == len(expected)
    for warning, text in zip(report.warnings, expected, strict=True):
        assert text in warning
        assert "raise the limit." in warning


def test_large_catalogs_are_refused(repository: Repository, tmp_path: Path) -> None:
    source = build(tmp_path / "source", {"many": 1000})
    with pytest.raises(SourceError, match="CVMFS_ROOT_KCATALOG_LIMIT is 1 thousand"):
        repository.publish(mirror(source), limits=Limits(root_kcatalog=1, enforced=True))
