# SPDX-License-Identifier: GPL-3.0-or-later
"""CernVM-FS's own software: client, server, and the tools below it.

Its paths (``/cvmfs``, ``/etc/cvmfs``, ``/var/spool/cvmfs``, ``/etc/fstab``) are fixed. What is made there is removed at
the end of each context, whatever happened within.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfs_publisher.content import ContentHash

from .services import Bucket, Place
from .trees import Tree, below, differences, read_mount

CONFIGURATION = Path("/etc/cvmfs")
SPOOL = Path("/var/spool/cvmfs")
MOUNTS = Path("/cvmfs")
FSTAB = Path("/etc/fstab")
GLOBAL_INFO = Path("/srv/cvmfs/info")

TRACES = Path("/tmp")  # noqa: S108 - where its publisher leaves a stack trace when it gives up

_TRACES = "cvmfs-swissknife-*-stacktrace.*"
_TIMEOUT = 300
_KEY_KINDS = ("pub", "key", "crt", "masterkey")

_SERVER_CONF = """\
CVMFS_CREATOR_VERSION=143
CVMFS_REPOSITORY_NAME={name}
CVMFS_REPOSITORY_TYPE=stratum0
CVMFS_USER=root
CVMFS_UNION_DIR={mounts}/{name}
CVMFS_SPOOL_DIR={spool}
CVMFS_STRATUM0={url}
CVMFS_UPSTREAM_STORAGE={storage}
CVMFS_USE_FILE_CHUNKING=true
CVMFS_MIN_CHUNK_SIZE=4194304
CVMFS_AVG_CHUNK_SIZE=8388608
CVMFS_MAX_CHUNK_SIZE=16777216
CVMFS_UNION_FS_TYPE=overlayfs
CVMFS_HASH_ALGORITHM=sha1
CVMFS_COMPRESSION_ALGORITHM=default
CVMFS_EXTERNAL_DATA=false
CVMFS_AUTO_TAG=true
CVMFS_GARBAGE_COLLECTION=false
CVMFS_AUTO_REPAIR_MOUNTPOINT=true
CVMFS_AUTOCATALOGS=false
CVMFS_ASYNC_SCRATCH_CLEANUP=true
CVMFS_PRINT_STATISTICS=false
CVMFS_UPLOAD_STATS_DB=false
CVMFS_UPLOAD_STATS_PLOTS=false
CVMFS_IGNORE_XDIR_HARDLINKS=true
"""
_CLIENT_CONF = """\
CVMFS_CACHE_BASE={cache}
CVMFS_RELOAD_SOCKETS={cache}
CVMFS_QUOTA_LIMIT=4000
CVMFS_MOUNT_DIR={mounts}
CVMFS_SERVER_URL={url}
CVMFS_HTTP_PROXY=DIRECT
CVMFS_PUBLIC_KEY={public_key}
CVMFS_SHARED_CACHE=no
CVMFS_NFILES=16384
CVMFS_USE_GEOAPI=no
CVMFS_AUTO_UPDATE=no
CVMFS_MAGIC_XATTRS_VISIBILITY=never
"""
_STRATUM0_CLIENT_CONF = """\
CVMFS_CHECK_PERMISSIONS=yes
CVMFS_IGNORE_SIGNATURE=no
CVMFS_NFS_SOURCE=no
CVMFS_FOLLOW_REDIRECTS=yes
CVMFS_SERVER_CACHE_MODE=yes
CVMFS_TALK_SOCKET={spool}/cvmfs_io
CVMFS_TALK_OWNER=root
CVMFS_USE_SSL_SYSTEM_CA=true
"""
_MARK = "# added by CernVM-FS for {name}"
_FSTAB = (
    "cvmfs2#{name} {spool}/rdonly fuse allow_other,fsname={name},"
    "config={conf}/client.conf:{spool}/client.local,cvmfs_suid,noauto 0 0 " + _MARK + "\n"
    "overlay_{name} {mounts}/{name} overlay upperdir={spool}/scratch/current,lowerdir={spool}/rdonly,"
    "workdir={spool}/ofs_workdir,noauto,nodev,ro 0 0 " + _MARK + "\n"
)


class CommandFailed(AssertionError):
    """A command ended with an exit code that was not expected."""


@dataclass(frozen=True)
class Tools:
    """Programs of an installed CernVM-FS."""

    server: str
    swissknife: str
    client: str
    talk: str


def find_tools() -> Tools | str:
    """Return the programs, or why there is no testing with them."""
    # The native publisher has a cvmfs_server, too, beside the interpreter that runs the tests
    own = Path(sys.executable).parent
    search = os.pathsep.join(part for part in os.get_exec_path() if Path(part) != own)
    names = ("cvmfs_server", "cvmfs_swissknife", "cvmfs2", "cvmfs_talk")
    found = [shutil.which(name, path=search) for name in names]
    missing = [name for name, program in zip(names, found, strict=True) if program is None]
    if missing:
        return f"CernVM-FS is not installed here ({', '.join(missing)} not on PATH)"
    if os.geteuid() != 0:
        return "CernVM-FS's own cvmfs_server and mounts need root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse to mount repositories with"
    return Tools(*filter(None, found))


def environment() -> dict[str, str]:
    """Return this process's environment without proxies: everything is on this machine."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def run(
    argv: Sequence[str | Path], *, stdin: str | None = None, cwd: Path | None = None, expect: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command.

    :param stdin: what it reads; nothing by default
    :param expect: the exit code that it must have; None for any
    :raises CommandFailed: when it has another
    """
    done = subprocess.run(
        argv,
        input=stdin or "",
        cwd=cwd or "/",
        env=environment(),
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=_TIMEOUT,
        check=False,
    )
    if expect is not None and done.returncode != expect:
        raise CommandFailed(
            f"{' '.join(map(str, argv))}: exit code {done.returncode} instead of {expect}\n{done.stdout}\n{done.stderr}"
        )
    return done


def fetch(url: str) -> bytes:
    """Return what an anonymous reader gets."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as response:
        content: bytes = response.read()
    return content


@dataclass(frozen=True)
class Published:
    """A repository as everybody can read it.

    :param url: of its root
    :param public_key: the public half of its master key
    """

    name: str
    url: str
    public_key: Path

    def manifest(self) -> dict[str, str]:
        """Return the fields of the manifest by their letters."""
        text = fetch(f"{self.url}/.cvmfspublished").partition(b"\n--\n")[0].decode()
        return {line[0]: line[1:] for line in text.splitlines()}

    def reflog_hash(self) -> str:
        """Return the hash of the reflog as it is."""
        algorithm = ContentHash.parse(self.manifest()["C"]).algorithm
        return ContentHash.of(fetch(f"{self.url}/.cvmfsreflog"), algorithm).hex


class Mount:
    """A repository that is mounted by the client."""

    def __init__(self, tools: Tools, repository: Published, directory: Path) -> None:
        self._tools = tools
        self._repository = repository
        self._socket = directory / "cache" / repository.name / f"cvmfs_io.{repository.name}"
        self._conf = directory / "client.conf"
        self._log = directory / "client.log"
        self.path = directory / "mnt"

    def mount(self, options: str = "") -> None:
        """Mount it.

        :raises CommandFailed: when the client refuses
        """
        (self._conf.parent / "cache").mkdir()
        self.path.mkdir()
        self._conf.write_text(
            _CLIENT_CONF.format(
                cache=self._conf.parent / "cache",
                mounts=MOUNTS,
                url=self._repository.url,
                public_key=self._repository.public_key,
            )
            + f"CVMFS_CLAIM_OWNERSHIP=no\nCVMFS_USYSLOG={self._log}\n"
            + options
        )
        mount_options = f"ro,fsname={self._repository.name},config={self._conf}"
        run([self._tools.client, "-o", mount_options, self._repository.name, self.path])

    def update(self) -> None:
        """Take the newest revision."""
        for _ in range(20):
            answer = run([self._tools.talk, "-p", self._socket, "remount", "sync"], expect=None)
            if "draining" not in answer.stdout.lower() and answer.returncode == 0:
                break
            time.sleep(0.5)
        else:
            raise CommandFailed(f"The client does not take the newest revision: {answer.stdout} {answer.stderr}")

    def messages(self) -> list[str]:
        """Return what the client has told the system's log."""
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []

    def attribute(self, name: str, path: bytes = b"") -> str:
        """Return one of the client's magic attributes."""
        location = os.fsencode(self.path) + (b"/" + path if path else b"")
        return os.getxattr(location, f"user.{name}").decode()

    def unmount(self) -> None:
        """Unmount it, if it is mounted."""
        _unmount(self.path)


@dataclass(frozen=True)
class Repository(Published):
    """A repository that CernVM-FS's ``cvmfs_server`` on this machine publishes."""

    tools: Tools

    @classmethod
    def at(cls, tools: Tools, name: str, url: str) -> Repository:
        """Return the repository that is configured here under this name."""
        return cls(name, url, CONFIGURATION / "keys" / f"{name}.pub", tools)

    @property
    def mounted(self) -> Path:
        """Where it is mounted, and can be changed in a transaction."""
        return MOUNTS / self.name

    def configure(self, settings: Mapping[str, str]) -> None:
        """Add to ``server.conf``; what is set there before is replaced."""
        with (CONFIGURATION / "repositories.d" / self.name / "server.conf").open("a") as conf:
            conf.writelines(f"{key}={value}\n" for key, value in settings.items())

    def tags(self) -> dict[str, tuple[str, str]]:
        """Return hash and revision of every tag."""
        fields = [line.split() for line in self.server("tag", "-l", "-x").splitlines()]
        return {name: (root_hash, revision) for name, root_hash, _, revision, *_ in fields}

    def server(self, command: str, *options: str, stdin: str | None = None, expect: int | None = 0) -> str:
        """Run a subcommand on this repository, and return what it prints."""
        done = run([self.tools.server, command, *options, self.name], stdin=stdin, expect=expect)
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def publish(self, *options: str) -> Iterator[Path]:
        """Give the mounted repository to the caller to change, and publish the result."""
        self.server("transaction")
        try:
            yield self.mounted
        except BaseException:
            self.server("abort", "-f")
            raise
        self.server("publish", *options)

    def knows_reflog(self) -> None:
        """Let this machine know of the reflog that somebody else wrote."""
        (SPOOL / self.name / "reflog.chksum").write_text(self.reflog_hash())

    def check(self) -> None:
        """Check the repository, and repair this machine's knowledge of its reflog if somebody else published."""
        self.server("check", "-r", stdin="y\n")


NewUpstream = Callable[..., Repository]
"""The fixture ``new_upstream``."""

TakeOver = Callable[..., Repository]
"""The fixture ``take_over``."""


def _unmount(mounted: Path) -> None:
    """Unmount what is mounted there, even if it is in use."""
    if os.path.ismount(mounted) and run(["umount", mounted], expect=None).returncode != 0:
        run(["umount", "-l", mounted])


def _remove(directory: Path) -> None:
    """Remove a directory in which a client that ends removes files, too."""
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{directory} cannot be removed")


class Upstream:
    """CernVM-FS's own software at work."""

    def __init__(self, tools: Tools, scratch: Path) -> None:
        self.tools = tools
        self._scratch = scratch

    @contextlib.contextmanager
    def mount(self, repository: Published, options: str = "") -> Iterator[Mount]:
        """Mount a repository, with a cold cache."""
        # Not below pytest's directories: the path of a socket has 107 bytes
        directory = Path(tempfile.mkdtemp(prefix="cvmfs-"))
        mounted = Mount(self.tools, repository, directory)
        try:
            mounted.mount(options)
            yield mounted
        finally:
            mounted.unmount()
            _remove(directory)

    def check(self, repository: Published, *options: str, manifest_names_reflog: bool = True) -> None:
        """Let ``cvmfs_swissknife`` check the newest revision, with all objects, and the reflog.

        :param manifest_names_reflog: not so in replicas, which have one of their own, and after garbage collection
        :raises CommandFailed: when it finds a problem
        """
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            checksum = Path(directory, "reflog.chksum")
            checksum.write_text(repository.manifest()["Y"] if manifest_names_reflog else repository.reflog_hash())
            temporary = Path(directory, "temporary")
            temporary.mkdir()
            where = ["-r", repository.url, "-N", repository.name, "-k", str(repository.public_key)]
            how = ["-t", str(temporary), "-c", "-R", str(checksum), *options]
            done = run([self.tools.swissknife, "check", *where, *how])
        assert "no problems found" in done.stdout + done.stderr

    def assert_shows(self, repository: Published, expected: Tree, directory: bytes = b"") -> None:
        """Let its check and its client look at the newest revision.

        :param directory: what is compared; all by default
        """
        self.check(repository)
        with self.mount(repository) as mount:
            manifest = repository.manifest()
            assert mount.attribute("revision") == manifest["S"]
            assert mount.attribute("root_hash") == manifest["C"]
            found = read_mount(mount.path)
            assert not differences(expected, below(found, directory) if directory else found)

    @contextlib.contextmanager
    def new_repository(self, name: str, place: Place, *options: str) -> Iterator[Repository]:
        """Make a repository, and remove it from this machine at the end, though not from a bucket."""
        with self._cleaned(name):
            run([self.tools.server, "mkfs", "-o", "root", "-p", *place.mkfs_options(name), *options, name])
            yield Repository.at(self.tools, name, place.url_of(name))

    @contextlib.contextmanager
    def imported(self, repository: Published, storage: str, keys: Path, *options: str) -> Iterator[Repository]:
        """Take over a repository by ``cvmfs_server import``, which makes a new whitelist.

        :param keys: a directory with all of its keys, including the master key
        """
        with self._cleaned(repository.name):
            what = ["-k", str(keys), "-w", repository.url, "-u", storage, repository.name]
            run([self.tools.server, "import", "-o", "root", "-p", "-r", *options, *what])
            taken = Repository.at(self.tools, repository.name, repository.url)
            taken.check()
            yield taken

    @contextlib.contextmanager
    def configured(self, repository: Published, storage: str, keys: Path) -> Iterator[Repository]:
        """Take over a repository by configuring this machine for it; writes nothing to its storage.

        :param keys: a directory with its keys; the master key is not needed
        """
        name = repository.name
        with self._cleaned(name):
            spool, conf = SPOOL / name, CONFIGURATION / "repositories.d" / name
            for name_in_spool in ("scratch/current", "scratch/wastebin", "rdonly", "tmp", "cache", "ofs_workdir"):
                (spool / name_in_spool).mkdir(parents=True)
            for directory in (conf, MOUNTS / name, CONFIGURATION / "keys"):
                directory.mkdir(parents=True, exist_ok=True)
            for kind in ("pub", "key", "crt"):
                shutil.copy(keys / f"{name}.{kind}", CONFIGURATION / "keys")
            values = {
                "name": name,
                "mounts": MOUNTS,
                "spool": spool,
                "conf": conf,
                "url": repository.url,
                "storage": storage,
                "cache": spool / "cache",
                "public_key": CONFIGURATION / "keys" / f"{name}.pub",
            }
            (conf / "server.conf").write_text(_SERVER_CONF.format(**values))
            (conf / "client.conf").write_text((_CLIENT_CONF + _STRATUM0_CLIENT_CONF).format(**values))
            (spool / "client.local").touch()
            (spool / "reflog.chksum").write_text(repository.reflog_hash())
            with FSTAB.open("a") as fstab:
                fstab.write(_FSTAB.format(**values))
            run(["mount", spool / "rdonly"])
            run(["mount", MOUNTS / name])
            yield Repository.at(self.tools, name, repository.url)

    @contextlib.contextmanager
    def replica(self, repository: Published, place: Bucket) -> Iterator[Published]:
        """Copy a repository to a Stratum 1 that keeps its copy in a bucket: with a directory, it needs Apache."""
        alias = f"s1.{repository.name}"
        with self._cleaned(alias):
            where = ["-n", alias, "-w", place.url_of(alias), "-u", place.storage_of(alias)]
            what = [repository.url, str(repository.public_key)]
            run([self.tools.server, "add-replica", "-o", "root", "-a", "-p", *where, *what])
            replica = Published(repository.name, place.url_of(alias), repository.public_key)
            self.snapshot(replica)
            yield replica

    def snapshot(self, replica: Published) -> None:
        """Let a Stratum 1 fetch the newest revision."""
        run([self.tools.server, "snapshot", f"s1.{replica.name}"])

    @contextlib.contextmanager
    def _cleaned(self, name: str) -> Iterator[None]:
        """Remove all traces of a repository from this machine at the end."""
        conf = CONFIGURATION / "repositories.d" / name
        assert not conf.exists(), f"{conf} exists; this test would remove it"
        had_global_info = GLOBAL_INFO.exists()
        had_traces = set(TRACES.glob(_TRACES))
        try:
            yield
        finally:
            if conf.exists():
                run([self.tools.server, "rmfs", "-f", name], expect=None)
            _unmount(MOUNTS / name)
            _unmount(SPOOL / name / "rdonly")
            marked = _MARK.format(name=name)
            lines = FSTAB.read_text().splitlines(keepends=True) if FSTAB.exists() else []
            if any(line.rstrip().endswith(marked) for line in lines):
                FSTAB.write_text("".join(line for line in lines if not line.rstrip().endswith(marked)))
            for leftover in (MOUNTS / name, SPOOL / name, conf, *(() if had_global_info else (GLOBAL_INFO,))):
                shutil.rmtree(leftover, ignore_errors=True)
            for kind in _KEY_KINDS:
                (CONFIGURATION / "keys" / f"{name}.{kind}").unlink(missing_ok=True)
            for trace in set(TRACES.glob(_TRACES)) - had_traces:
                trace.unlink()
