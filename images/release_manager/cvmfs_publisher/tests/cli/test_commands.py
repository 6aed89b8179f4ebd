# SPDX-License-Identifier: GPL-3.0-or-later
"""The program, subcommand by subcommand: what it prints for programs and for people, and its exit codes."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from operations.conftest import from_template
from operations.managers import NAME, Outcome, ReleaseManager, changes_file, make, mirror, refusal, soon
from operations.stores import FaultyEnvironment
from operations.test_trees import SETTINGS
from operations.trees import Node, trees, write

from cvmfs_publisher.changes.entry import Totals
from cvmfs_publisher.operations.transaction import abort, open_transaction
from cvmfs_publisher.repository import Certificate, MasterKey, ServerConfig, Whitelist
from cvmfs_publisher.repository.lease import LEASE_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a file system of its own)

PATHS = {"added": list, "modified": list, "removed": list, "truncated": bool}
PUBLISH = {
    "repository": str,
    "revision": int,
    "root_hash": str,
    "previous_revision": int,
    "changed": bool,
    "dry_run": bool,
    "tag": (str, type(None)),
    "branch": (str, type(None)),
    "added": int,
    "modified": int,
    "removed": int,
    "paths": PATHS,
    "files": int,
    "bytes": int,
    "new_objects": int,
    "uploaded_bytes": int,
    "seconds": float,
    "warnings": list,
}
TAG = {
    "name": str,
    "root_hash": str,
    "size": int,
    "revision": int,
    "timestamp": int,
    "description": str,
    "branch": str,
}
TRANSACTION = {
    "id": str,
    "repository": str,
    "path": str,
    "revision": int,
    "opened": str,
    "mount_point": (str, type(None)),
}
CHECKOUT = {
    "repository": str,
    "tag": (str, type(None)),
    "root_hash": (str, type(None)),
    "branch": (str, type(None)),
    "is_new": bool,
}
LISTED = {"repository": str, "type": str, "storage_type": str, "transaction": (dict, type(None)), "remarks": list}

DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    # one after the other, on one repository
    ("info --json", {
        "repository": str,
        "revision": int,
        "root_hash": str,
        "timestamp": int,
        "replicable": bool,
        "garbage_collectable": bool,
        "whitelist_valid_days": int,
        "stratum0_url": str,
        "creator": str,
        "public_key": str,
        "meta_info": str,
    }),
    ("publish --dry-run --json --changes CHANGES", PUBLISH),
    ("transaction --json", TRANSACTION),
    ("publish --json --changes CHANGES", PUBLISH),
    ("ingest --json --dry-run --directory SOURCE -b more", PUBLISH),
    ("ingest --json --directory SOURCE -b more -a v2 -m second", PUBLISH),
    ("transaction --json", TRANSACTION),
    ("abort --json -f", {"repository": str, "aborted": bool, "warnings": list}),
    ("tag --json -a stable -m Good", TAG),
    ("tag --json -i stable", TAG),
    ("tag --json -l", {"repository": str, "tags": list}),
    ("tag --json", {"repository": str, "tags": list}),
    ("tag --json -b", {"repository": str, "branches": list}),
    ("diff --json", {"repository": str, "from": TAG, "to": TAG, "counters": dict, "differences": list}),
    ("checkout --json -b fix -t v2", CHECKOUT),
    ("checkout --json", CHECKOUT),
    ("ingest --json --directory SOURCE -b third -a v3", PUBLISH),
    ("rollback --json -f -t v2", {
        "repository": str,
        "revision": int,
        "root_hash": str,
        "previous_revision": int,
        "previous_root_hash": str,
        "tag": str,
        "removed": list,
        "warnings": list,
    }),
    ("tag --json -f -r stable -r v2", {"repository": str, "removed": list}),
    ("resign --json", {"repository": str, "expires": str, "fingerprints": list}),
    ("resign --json -p", {"repository": str, "revision": int}),
    ("check --json -i", {
        "repository": str,
        "revision": int,
        "catalogs": int,
        "entries": int,
        "objects": int,
        "problems": list,
        "warnings": list,
        "repaired": list,
    }),
]  # fmt: skip


def is_of_form(document: Any, form: Any) -> bool:
    """Say whether a JSON document has exactly the keys of `form`, with values of its types."""
    if isinstance(form, dict):
        return document.keys() == form.keys() and all(is_of_form(document[key], form[key]) for key in form)
    return isinstance(document, form) and not (isinstance(document, bool) and form is int)


def test_documents(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "mirror"})
    for line, form in DOCUMENTS:
        words = line.replace("CHANGES", str(changes)).replace("SOURCE", str(source)).split()
        outcome = local.server(*words, real=True).succeeded()
        assert outcome.stdout.count("\n") == 1, line
        assert is_of_form(outcome.document, form), (line, outcome.document)
        assert outcome.document["repository"] == NAME if "repository" in form else True
    listed = local.run("list", "--json").succeeded().document
    assert listed.keys() == {"repositories"}
    assert [is_of_form(one, LISTED) for one in listed["repositories"]] == [True]


def test_mkfs_document(tmp_path: Path) -> None:
    storage = tmp_path / "srv" / NAME
    manager = ReleaseManager(tmp_path / "manager", {"CVMFS_UPSTREAM_STORAGE": f"local,{storage}/data/txn,{storage}"})
    outcome = manager.server("mkfs", "--json", "-w", "http://x/y", "-z", "-o", "root").succeeded()
    assert is_of_form(
        outcome.document,
        {
            "repository": str,
            "storage": str,
            "stratum0_url": str,
            "revision": int,
            "root_hash": str,
            "generated_keys": bool,
            "keys_dir": str,
            "warnings": list,
        },
    )
    assert outcome.document["generated_keys"]
    for suffix in ("crt", "key", "masterkey", "pub"):
        mode = (manager.keys / f"{NAME}.{suffix}").stat().st_mode & 0o777
        assert mode == (0o400 if suffix.endswith("key") else 0o444), suffix
    assert {path.name for path in (tmp_path / "srv").iterdir()} == {NAME, "info"}
    assert manager.server("info", "--json").succeeded().document["garbage_collectable"]


def test_mkfs_with_a_keychain_can_be_repeated(local: ReleaseManager, tmp_path: Path) -> None:
    """Keys are taken over once nothing speaks against the storage, and those that a failure left are no obstacle."""
    keychain = local.keys.rename(tmp_path / "keychain")
    local.keys.mkdir()
    make(tmp_path, file="")
    local.configure(CVMFS_UPSTREAM_STORAGE=f"local,{tmp_path}/file/txn,{tmp_path}/file")
    assert local.server("mkfs", "-k", keychain).code == 1
    assert list(local.keys.iterdir()) == []
    storage = tmp_path / "new"
    local.configure(CVMFS_UPSTREAM_STORAGE=f"local,{storage}/data/txn,{storage}")
    for _ in range(2):
        local.server("mkfs", "-k", keychain).succeeded()
        assert {path.name: path.read_bytes() for path in local.keys.iterdir()} == {
            path.name: path.read_bytes() for path in keychain.iterdir()
        }
        shutil.rmtree(storage)


@pytest.mark.skipif(SHARED_MEMORY.stat().st_dev == Path.cwd().stat().st_dev, reason="needs two file systems")
def test_mkfs_with_a_file_system_of_the_repositorys_own(tmp_path: Path) -> None:
    """The list of the server's repositories, which is outside, cannot be written in the same way."""
    (tmp_path / "srv").mkdir()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as other:
        storage = tmp_path / "srv" / NAME
        storage.symlink_to(other)
        settings = {"CVMFS_UPSTREAM_STORAGE": f"local,{storage}/data/txn,{storage}", "CVMFS_STRATUM0": "http://x/y"}
        manager = ReleaseManager(tmp_path / "manager", settings)
        outcome = manager.server("mkfs").succeeded()
        assert f"info/v1/repositories.json does not list {NAME}" in outcome.stderr
        manager.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="uses /var/spool/cvmfs")
def test_mkfs_writes_the_configuration(tmp_path: Path) -> None:
    name = f"test-{secrets.token_hex(4)}.example.org"
    manager = ReleaseManager(tmp_path / "manager", {}, name)
    manager.server_conf.unlink()
    storage = tmp_path / "srv" / name
    try:
        upstream = f"local,{storage}/data/txn,{storage}"
        outcome = manager.run(
            "mkfs", "-u", upstream, "-w", "http://host/it", "-g", "-Z", "none", "-P", name
        ).succeeded()
        assert f"Clients find it at http://host/it.\nBack up {manager.keys}/{name}.masterkey now" in outcome.stdout
        server = ServerConfig.load(manager.server_conf)
        assert server["CVMFS_UPSTREAM_STORAGE"] == upstream
        assert [server["CVMFS_AUTO_TAG"], server["CVMFS_COMPRESSION_ALGORITHM"]] == ["false", "none"]
        assert server["CVMFS_UNION_FS_TYPE"] == "none"
        client = ServerConfig.load(manager.server_conf.with_name("client.conf"))
        assert client["CVMFS_SERVER_URL"] == "http://host/it"
        assert client["CVMFS_PUBLIC_KEY"] == f"{manager.keys}/{name}.pub"
        manager.run("ingest", "-d", "new_repository").succeeded()
        assert manager.run("tag", "-x").succeeded().stdout.count("generic") == 0
    finally:
        shutil.rmtree(Path("/var/spool/cvmfs") / name)


def test_only_what_is_needed_is_loaded(local: ReleaseManager, source: Path) -> None:
    """To load NumPy and what other subcommands need would take more than a third of the time of a small publish."""
    script = (
        "import sys; from cvmfs_publisher.cli.main import run; assert run(sys.argv[1:]) == 0;"
        "assert not {'numpy', 'cvmfs_publisher.operations.gc', 'cvmfs_publisher.operations.check'} & sys.modules.keys()"
    )
    arguments = ["ingest", "--directory", str(source), "-b", "sw", NAME]
    subprocess.run([sys.executable, "-c", script, *arguments], env=local.process_environment, check=True)


def test_publish_document(local: ReleaseManager, tmp_path: Path) -> None:
    """What the numbers mean, and how paths are written that are no text."""
    source = make(tmp_path / "source", a="12345", b="12345", c="x" * 7)
    os.mkdir(os.fsencode(source) + b"/new\nline\xff")
    document = local.server("ingest", "--json", "--directory", source, "-b", "sw").succeeded().document
    assert document["paths"] == {
        "added": ["sw", "sw/a", "sw/b", "sw/c", "sw/new\\nline\\xff"],
        "modified": [],
        "removed": [],
        "truncated": False,
    }
    assert [document[key] for key in ("added", "modified", "removed")] == [5, 0, 0]
    assert [document[key] for key in ("revision", "previous_revision", "changed", "dry_run")] == [2, 1, True, False]
    assert [document[key] for key in ("files", "bytes", "new_objects")] == [3, 17, 2]
    assert document["root_hash"] == local.manifest().root_hash.hex
    assert re.fullmatch(r"generic-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["tag"])


def test_long_lists_of_paths_are_cut(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{f"f{number:04}": "" for number in range(1500)})
    document = local.server("ingest", "--json", "--directory", source, "-b", "sw").succeeded().document
    assert document["added"] == 1501
    assert document["paths"]["added"] == ["sw", *(f"sw/f{number:04}" for number in range(999))]
    assert document["paths"]["truncated"]


# For people


def test_info(local: ReleaseManager) -> None:
    outcome = local.server("info", "-m").succeeded()
    lines = outcome.stdout.splitlines()
    assert lines[0] == f"Repository name: {NAME}"
    local.configure(CVMFS_CREATOR_VERSION="2.12.0-1")
    assert local.server("info").succeeded().stdout.splitlines()[1] == "Created by CernVM-FS 2.12.0-1"
    assert "Stratum1 replication allowed: yes" in lines
    assert "Whitelist is valid for another 29 days" in lines
    assert f"  CVMFS_PUBLIC_KEY={local.keys}/{NAME}.pub" in lines
    assert any('"administrator"' in line for line in lines)
    assert outcome.stderr == ""


def test_list(local: ReleaseManager) -> None:
    assert local.run("list").succeeded().stdout == f"{NAME} (stratum0 / local)\n"
    local.server("transaction").succeeded()
    assert local.run("list").succeeded().stdout == f"{NAME} (stratum0 / local - in transaction)\n"


def test_list_offline(local: ReleaseManager) -> None:
    """It neither waits for storage that is down nor complains of it."""
    local.server("transaction").succeeded()
    conf = local.base / "s3.conf"
    values = {"HOST": "127.0.0.1", "PORT": "9", "BUCKET": "bucket", "ACCESS_KEY": "a", "SECRET_KEY": "b"}
    conf.write_text("".join(f"CVMFS_S3_{key}={value}\n" for key, value in values.items()))
    local.configure(CVMFS_UPSTREAM_STORAGE=f"S3,/unused,{NAME}@{conf}")
    begin = time.monotonic()
    (listed,) = local.run("list", "--offline", "--json").succeeded().document["repositories"]
    assert time.monotonic() - begin < 12, "storage that never answers is asked for 15 s"
    assert listed["transaction"]["repository"] == NAME
    assert listed["remarks"] == ["in transaction"]


def test_list_shows_what_is_wrong_with_a_repository(local: ReleaseManager) -> None:
    (local.keys / f"{NAME}.pub").unlink()
    assert "There is no" in local.run("list").succeeded().stdout


def test_tags(local: ReleaseManager, source: Path) -> None:
    local.server("ingest", "--directory", source, "-b", "sw", "-a", "v1", "-m", "a description").succeeded()
    manifest = local.manifest()
    lines = local.server("tag", "-l", "-x").succeeded().stdout.splitlines()
    by_name = {line.split(" ")[0]: line for line in lines}
    own = by_name["v1"].split(" ", 6)
    assert own[1:4] == [manifest.root_hash.hex, str(manifest.catalog_size), "2"]
    assert own[5:] == ["(default)", "a description"]
    assert {"trunk", "trunk-previous", "v1"} < by_name.keys()
    table = local.server("tag").succeeded().stdout.splitlines()
    assert table[0].split(" │ ")[0].strip() == "Name"
    assert table[-1] == f"listing contains {len(by_name)} tags"
    shown = local.server("tag", "-i", "v1").succeeded().stdout
    assert f"Root Hash:    {manifest.root_hash.hex}\n" in shown


def test_tags_have_the_time_of_what_they_name(local: ReleaseManager, source: Path) -> None:
    """Clients that want the state at a date look for it there."""
    first = local.server("tag", "--json", "-i", "trunk").succeeded().document
    time.sleep(1.1)
    local.server("ingest", "--directory", source, "-b", "sw", "-a", "second").succeeded()
    second = local.server("tag", "--json", "-i", "second").succeeded().document
    assert first["timestamp"] < second["timestamp"]
    time.sleep(1.1)
    for arguments, expected in (([], second), (["-h", first["root_hash"]], first)):
        tag = local.server("tag", "--json", "-a", "later", *arguments).succeeded().document
        for key in ("root_hash", "size", "revision", "timestamp"):
            assert tag[key] == expected[key], key


def test_verbose(local: ReleaseManager, source: Path) -> None:
    outcome = local.server("ingest", "-v", "--directory", source, "-b", "sw").succeeded()
    lines = outcome.stdout.splitlines()
    added = ["sw", "sw/README", "sw/bin", "sw/bin/run", "sw/lib", "sw/lib/data"]
    assert sorted(lines[:-1]) == [f"[add] /cvmfs/{NAME}/{path}" for path in added]
    assert re.fullmatch(rf"{NAME}: published revision 2, tagged \S+: 6 added, 0 changed, 0 removed\.", lines[-1])
    again = local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    assert again.stdout == f"{NAME}: nothing changed, revision 2 stays.\n"
    planned = local.server("ingest", "--dry-run", "-d", "sw/bin", "--directory", source, "-b", "sw").succeeded()
    assert planned.stdout == f"{NAME}: 2 added, 0 changed, 2 removed; nothing was published.\n"


def test_verbose_names_each_path(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{f"d{number % 30}__\xe4{number}": "" for number in range(1500)})
    for number in range(30):
        (source / f"d{number}" / ".cvmfscatalog").touch()
    done = local.server("ingest", "-v", "--directory", source, "-b", "sw").succeeded()
    paths = [f"/cvmfs/{NAME}/sw/{path.relative_to(source)}" for path in source.rglob("*")]
    everything = sorted([*paths, f"/cvmfs/{NAME}/sw"])
    *lines, verdict = done.stdout.splitlines()
    assert sorted(lines) == sorted(f"[add] {path}" for path in everything)
    assert f"{len(everything)} added" in verdict
    planned = local.server("ingest", "-v", "--dry-run", "-d", "sw").succeeded()  # with all that is in nested catalogs
    assert sorted(planned.stdout.splitlines()[:-1]) == sorted(f"[rem] {path}" for path in everything)
    paths = local.server("ingest", "-v", "--json", "-d", "sw").succeeded().document["paths"]
    assert (len(paths["removed"]), paths["truncated"]) == (1000, True)


def test_warnings_are_on_standard_error(local: ReleaseManager) -> None:
    outcome = local.server("ingest", "-d", "not/there").succeeded()
    assert "Warning: /not/there was to be deleted, but is not in the repository\n" in outcome.stderr
    assert "Warning" not in outcome.stdout


def test_progress_is_on_standard_error(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{f"f{number}": os.urandom(60_000) for number in range(300)})
    local.environ["CVMFS_PROGRESS_INTERVAL"] = "0.02"
    outcome = local.server("ingest", "--json", "--directory", source, "-b", "sw", real=True).succeeded()
    assert outcome.document["files"] == 300
    lines = outcome.stderr.splitlines()
    assert len(lines) > 2
    assert all(line.startswith(f"Publishing {NAME}: ") for line in lines)
    assert any(re.search(r" of 300 files  .* of 18\.0 MB", line) for line in lines)
    assert "300 files, 18.0 MB in " in lines[-1]
    local.environ["CVMFS_PROGRESS_INTERVAL"] = "often"
    local.refuses("ingest", "-d", "sw", says=["CVMFS_PROGRESS_INTERVAL=often is no time"])


def test_nothing_waits_for_the_number_of_files(
    local: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is for the progress line only, and on a network file system it takes long to find out."""
    started = threading.Event()

    def count(_: str, stop: threading.Event) -> Totals:
        started.set()
        assert stop.wait(60)
        return Totals(0, 0)

    monkeypatch.setattr("cvmfs_publisher.operations.apply.count_files", count)
    assert local.ingest(mirror(source)).changed
    assert started.is_set()
    assert "totals" not in {thread.name for thread in threading.enumerate()}


def test_a_terminal_gets_one_live_line(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{f"f{number}": os.urandom(60_000) for number in range(300)})
    terminal, end = pty.openpty()
    argv = local.argv("ingest", "--json", "--directory", source, "-b", "sw")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=end, env=local.process_environment)
    os.close(end)
    seen = b""
    try:
        while part := os.read(terminal, 1 << 16):
            seen += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(terminal)
    stdout = process.communicate()[0]
    assert json.loads(stdout)["files"] == 300
    assert seen.count(b"\r\n") == 1
    assert seen.strip().endswith(b"/s)")


# Exit codes and questions


def test_transaction_codes(local: ReleaseManager) -> None:
    other = local.another("other")
    local.server("transaction").succeeded()
    local.refuses("transaction", code=17, says=["has the transaction", "cvmfs_server abort"])
    other.refuses("transaction", code=16, says=[NAME, "began it at", "cvmfs_server abort -f"])
    other.refuses("transaction", "-t", "1", code=16, says=[NAME])
    local.server("abort", "-f").succeeded()
    for path, code, says in (
        ("none", 2, f"{NAME} has no /none"),
        ("new_repository/none", 2, f"{NAME} has no /new_repository/none"),
        ("new_repository", 20, "/new_repository in test.example.org is no directory"),
    ):
        outcome = local.run("transaction", f"{NAME}/{path}")
        assert (outcome.code, outcome.stdout) == (code, "")
        assert says in outcome.stderr
        assert local.state().lease_is_free
    with local.store() as store:
        certificate = Certificate.load(local.keys / f"{NAME}.crt")
        key = MasterKey.load(local.keys / f"{NAME}.masterkey")
        store.put(WHITELIST_KEY, Whitelist.create(NAME, [certificate], days=-1).signed(key))
    local.refuses("transaction", code=22, says=["expired", "cvmfs_server resign"])
    assert "whitelist expired" in local.run("list").stdout
    assert "Whitelist is expired" in local.server("info").succeeded().stdout


def test_transaction_waits(local: ReleaseManager) -> None:
    other = local.another("other")
    local.server("transaction").succeeded()
    environment = FaultyEnvironment(other)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_transaction, environment, NAME, retry_timeout=60)
        soon(lambda: ("get", LEASE_KEY) in environment.faulty.operations)
        assert not waiting.done()
        abort(local.environment, NAME, force=True)
        session = waiting.result(60)
    lease = other.lease()
    assert lease is not None
    assert (lease.transaction, lease.is_released) == (session.id, False)


def test_transaction_waits_as_long_as_it_was_told(local: ReleaseManager) -> None:
    other = local.another("other")
    other.server("transaction").succeeded()
    started = time.monotonic()
    local.refuses("transaction", "-t", "2", says=["has a transaction open"], code=errno.EBUSY)
    assert time.monotonic() - started > 2


def test_questions(local: ReleaseManager) -> None:
    """Nothing is done unless the answer is yes; with -f there is no question."""
    local.server("transaction").succeeded()
    for answer in (b"", b"n\n", b"yes\n", b"\n"):
        outcome = local.server("abort", stdin=answer)
        assert outcome.code == 4
        assert "DISCARD ALL CHANGES" in outcome.stderr
        assert outcome.stdout == ""
    local.server("abort", stdin=b"y\n").succeeded()
    local.server("tag", "-a", "mine").succeeded()
    assert local.server("tag", "-r", "mine", stdin=b"n\n").code == 1
    assert "mine " in local.server("tag", "-x").stdout
    local.server("tag", "-r", "mine", stdin=b"Y\n").succeeded()
    assert "mine " not in local.server("tag", "-x").stdout
    before = local.state()
    assert local.server("resign", "-d", "60", stdin=b"n\n").code == 1
    assert local.state() == before
    local.server("resign", "-d", "60", "-f").succeeded()
    assert local.server("info", "--json").document["whitelist_valid_days"] == 59


def test_one_repository_needs_no_name(local: ReleaseManager, source: Path) -> None:
    assert local.run("info", "--json").succeeded().document["repository"] == NAME
    local.run("transaction").succeeded()
    changes = changes_file(source.parent / "changes", {"source": str(source), "base_dir": "/", "mode": "merge"})
    assert local.run("publish", "--json", "--changes", changes).succeeded().document["revision"] == 2
    local.run("check").succeeded()
    local.run("resign").succeeded()


def test_the_change_set_can_be_standard_input(local: ReleaseManager, source: Path) -> None:
    document = {"version": 1, "changes": [{"source": str(source), "base_dir": "sw", "mode": "mirror"}]}
    local.server("transaction").succeeded()
    outcome = local.server("publish", "--json", "--changes", "-", stdin=json.dumps(document).encode())
    assert outcome.succeeded().document["added"] == 6


def test_a_publish_without_changes(local: ReleaseManager) -> None:
    """It makes no revision and ends the transaction; with a tag or a number it makes one."""
    local.server("transaction").succeeded()
    assert not local.server("publish", "--json").succeeded().document["changed"]
    assert local.manifest().revision == 1
    assert local.state().lease_is_free
    outcome = local.server("publish", "-n", str(2**62 + 1))
    assert (outcome.code, f"is not a number from 1 to {2**62}" in outcome.stderr) == (3, True)
    for options, revision in ((["-a", "empty"], 2), (["-n", "7"], 7)):
        local.server("transaction").succeeded()
        assert local.server("publish", "--json", *options).succeeded().document["changed"]
        assert local.manifest().revision == revision


def test_odd_bytes_in_arguments(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", file="content")
    odd = b"\xff\xe4"
    outcome = local.server("ingest", "--directory", source, "-b", odd, real=True).succeeded()
    assert "published revision 2" in outcome.stdout
    for text in (odd, "two\nlines"):
        for command in (["ingest", "-d", odd, "-m", text], ["tag", "-a", "odd", "-m", text]):
            local.refuses(*command, says=["cannot describe a tag. Use one line of UTF-8 text"])
    session = local.run("transaction", "--json", NAME.encode() + b"/" + odd).succeeded().document
    assert session["path"] == "\\xff\\xe4"
    local.server("abort", "--json", "-f").succeeded()
    local.server("ingest", "-d", odd).succeeded()


@settings(SETTINGS, max_examples=6)
@given(first=trees, second=trees)
def test_a_dry_run_tells_what_the_publish_does(template: Path, first: Node, second: Node) -> None:
    with tempfile.TemporaryDirectory() as directory:
        manager = from_template(template, Path(directory))
        for number, tree in enumerate((first, second)):
            source = Path(directory) / str(number)
            write(tree, os.fsencode(source))
            options: list[str | Path] = ["--json", "--mirror", "--directory", source, "-b", "sw"]
            before = manager.state()
            planned = manager.server("ingest", "--dry-run", *options)
            assert manager.state() == before
            if planned.code != 0:
                manager.refuses("ingest", *options, says=[planned.stderr.partition(": ")[2].strip()])
                continue
            done = manager.server("ingest", *options).succeeded()
            told = [
                {key: one.document[key] for key in ("changed", "added", "modified", "removed", "paths", "warnings")}
                for one in (planned, done)
            ]
            assert told[0] == told[1]


def test_standard_input_may_be_closed(local: ReleaseManager, source: Path) -> None:
    command = local.argv("ingest", "--directory", source, "-b", "sw")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], env=local.process_environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_check_without_room_for_catalogs(local: ReleaseManager) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *local.argv("check")],
        env=local.process_environment,
        capture_output=True,
        check=False,
        text=True,
    )
    message = refusal(Outcome(done.returncode, done.stdout, done.stderr), "check", ["Free space there"])
    assert f"scratch directory {local.spool}" in message


def test_automatic_tags_that_are_too_old_go(local: ReleaseManager, source: Path) -> None:
    arguments: list[str | Path] = ["--directory", source, "-b", "sw"]
    local.configure(CVMFS_AUTO_TAG_TIMESPAN="in former times")
    for dry_run in ([], ["--dry-run"]):
        says = ["CVMFS_AUTO_TAG_TIMESPAN=in former times is no point in time", "4 weeks ago"]
        local.refuses("ingest", *arguments, *dry_run, says=says)
    assert not any((local.base.parent / "storage" / "data" / "txn").iterdir())
    local.configure(CVMFS_AUTO_TAG_TIMESPAN="now + 1 hour")
    local.server("ingest", *arguments).succeeded()
    assert local.server("tag", "-x").succeeded().stdout.count("generic") == 1


@pytest.mark.parametrize("setting", [{"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"PYTHONIOENCODING": "ascii"}])
def test_any_locale(local: ReleaseManager, tmp_path: Path, setting: dict[str, str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "käse").write_text("")
    local.environ.update(setting)
    outcome = local.server("ingest", "-v", "--directory", source, "-b", "sw", real=True).succeeded()
    assert "published revision 2" in outcome.stdout
