# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines that are not understood, or make no sense: exit codes as upstream's, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from operations.managers import NAME, Outcome, ReleaseManager, refusal
from test_compatibility import UPSTREAM, native

from cvmfs_publisher.cli import main
from cvmfs_publisher.cli.commands import COMMANDS
from cvmfs_publisher.cli.refused import REFUSED
from cvmfs_publisher.cli.refused import refusal as refusal_of

Run: TypeAlias = Callable[[str], Outcome]

TOO_LONG = "a" * 61

GRAMMAR: list[tuple[str, int, str]] = [
    # arguments, exit code, what standard error has in it
    ("", 2, "usage: cvmfs_server"),
    ("frobnicate", 3, "invalid choice: 'frobnicate'"),
    ("--frobnicate", 3, "usage: cvmfs_server"),
    ("mkfs", 3, "cvmfs_server mkfs: the following arguments are required: FQRN"),
    (f"mkfs {NAME} another.example.org", 3, "unrecognized arguments: another.example.org"),
    (f"mkfs -R {NAME}", 3, "-R is not supported by this engine: it does not use smart cards"),
    (f"mkfs {NAME} -V", 3, "argument -V: expected one argument"),
    (f"mkfs -P -f overlayfs {NAME}", 3, "argument -f: not allowed with argument -P"),
    (f"mkfs -m yes {NAME}", 3, f"unrecognized arguments: {NAME}"),
    (f"mkfs --jso {NAME}", 3, "unrecognized arguments: --jso"),
    (f"publish --change x {NAME}", 3, "unrecognized arguments: --change"),
    (f"publish -n 0 {NAME}", 3, "argument -n: 0 is not a number from 1 to 4611686018427387904"),
    (f"publish -n -7 {NAME}", 3, "argument -n: -7 is not a number from 1"),
    (f"publish -n seven {NAME}", 3, "argument -n: seven is not a number"),
    (f"publish -n 9223372036854775808 {NAME}", 3, "argument -n: 9223372036854775808 is not a number from 1 to"),
    (f"publish -X -N {NAME}", 3, "argument -N: not allowed with argument -X"),
    (f"publish -p {NAME}", 3, "-p is not supported by this engine: there are no catalogs on disk"),
    (f"publish -c x {NAME}", 3, "-c is not supported by this engine: tags have no channels any more"),
    (f"publish -e {NAME}", 3, "-e is not supported by this engine: gateways no longer need it"),
    (f"publish {NAME} -F", 3, "argument -F: expected one argument"),
    (f"publish -a {NAME} -m", 3, "argument -m: expected one argument"),
    (f"transaction -t soon {NAME}", 3, "argument -t/--retry-timeout: soon is not a number from 0"),
    (f"transaction -t -1 {NAME}", 3, "argument -t/--retry-timeout: -1 is not a number from 0"),
    (f"transaction --interactive --mountless {NAME}", 3, "--mountless: not allowed with argument --interactive"),
    (f"mount -a {NAME}", 1, "-a means all repositories. Either name one, or use -a."),
    (f"mount -f {NAME}", 3, "unrecognized arguments: -f"),
    (f"tag -a new -r old {NAME}", 3, "argument -r: not allowed with argument -a"),
    (f"tag -l -i old {NAME}", 3, "argument -i: not allowed with argument -l"),
    (f"tag -b -l {NAME}", 3, "argument -l: not allowed with argument -b"),
    (f"tag -c x {NAME}", 3, "-c is not supported by this engine: tags have no channels any more"),
    (f"rollback {NAME} -t", 3, "argument -t: expected one argument"),
    (f"rollback -m {NAME}", 3, "unrecognized arguments: -m"),
    (f"diff {NAME} -s", 3, "argument -s/--from: expected one argument"),
    (f"diff -x {NAME}", 3, "unrecognized arguments: -x"),
    (f"checkout {NAME} -b", 3, "argument -b: expected one argument"),
    (f"checkout -f {NAME}", 3, "unrecognized arguments: -f"),
    (f"add-replica -w x {NAME} key", 3, "no such subcommand in this engine: replicas are made by Stratum 1 servers"),
    (f"snapshot {NAME}", 3, "Run CernVM-FS's own cvmfs_server on the Stratum 1 server."),
    ("update-geodb -l", 3, "only Stratum 1 servers sort others by distance"),
    (f"alterfs -m on {NAME}", 3, "CernVM-FS itself has not had it since 2.1"),
    ("fix-permissions", 3, "There is nothing to fix"),
    (f"enter -w http://x {NAME}", 3, "-w is not supported by this engine: the repository has to be configured"),
    (f"enter --keep-session {NAME}", 3, "--keep-session is not supported by this engine: publish what is to be kept"),
    ("masterkeycard -a", 3, "this engine does not use smart cards"),
    (f"rmfs -p --delete-storage {NAME}", 3, "-p and --delete-storage exclude each other"),
    ("skeleton", 3, "the following arguments are required: DIRECTORY"),
    ("merge-stats one.db", 3, "the following arguments are required: DB_FILE_2"),
    (f"print-stats {NAME} -s", 3, "argument -s: expected one argument"),
    (f"update-repoinfo {NAME} -f", 3, "argument -f: expected one argument"),
    ("update-info -e -f file", 3, "argument -f: not allowed with argument -e"),
    (f"tag -h {NAME} -a", 3, "argument -a: expected one argument"),
    (f"ingest -t a.tar --directory b -b c {NAME}", 3, "argument --directory: not allowed with argument -t"),
    (f"ingest --image a --directory b -b c {NAME}", 3, "argument --directory: not allowed with argument --image"),
    (f"resign -d 0 {NAME}", 3, "argument -d: 0 is not a number from 1 to 36500"),
    (f"resign -w {NAME} -w", 3, "argument -w: expected one argument"),
    ("import", 3, "the following arguments are required: FQRN"),
    (f"import -l {NAME}", 3, "-l is not supported by this engine: only CernVM-FS's own tools migrate catalogs"),
    (f"import -s {NAME}", 3, "-s is not supported by this engine: it is about -l"),
    (f"import -c 1:1 {NAME}", 3, "-c is not supported by this engine: it is about -l, which is not either; use -o"),
    (f"import -R {NAME}", 3, "-R is not supported by this engine: hand the master key over as a secret"),
    (f"import -k {NAME}", 3, "the following arguments are required: FQRN"),
    (f"check -q {NAME}", 3, "unrecognized arguments: -q"),
    (f"gc -r -1 {NAME}", 3, "argument -r: -1 is not a number from 0"),
    (f"gc -r three {NAME}", 3, "argument -r: three is not a number from 0"),
    (f"gc -r 3 -t yesterday {NAME}", 3, "argument -t: not allowed with argument -r"),
    (f"gc -z {NAME}", 3, "unrecognized arguments: -z"),
    (f"gc {NAME} another.example.org", 3, "unrecognized arguments: another.example.org"),
    (f"gc {NAME} -L", 3, "argument -L: expected one argument"),
    (f"check {NAME} -s", 3, "argument -s: expected one argument"),
    (f"abort --transaction {NAME} --transaction", 3, "argument --transaction: expected one argument"),
    (f"list {NAME}", 3, f"unrecognized arguments: {NAME}"),
    (f"list-catalogs -t -x {NAME}", 3, "argument -x: not allowed with argument -t"),
    (f"list-catalogs -q {NAME}", 3, "unrecognized arguments: -q"),
    (f"catalog-chown {NAME}", 3, "the following arguments are required: -u, -g"),
    (f"catalog-chown -u map {NAME}", 3, "the following arguments are required: -g"),
    (f"catalog-chown {NAME} -u map -g", 3, "argument -g: expected one argument"),
    (f"eliminate-hardlinks -f {NAME} another.example.org", 3, "unrecognized arguments: another.example.org"),
    (f"eliminate-bulk-hashes -x {NAME}", 3, "unrecognized arguments: -x"),
    (f"fix-stats -x {NAME}", 3, "unrecognized arguments: -x"),
    (f"migrate -f {NAME}", 3, "unrecognized arguments: -f"),
    (f"copy {NAME}", 3, "one of the arguments --from --to is required"),
    (f"copy --from local,a,b --to local,c,d {NAME}", 3, "argument --to: not allowed with argument --from"),
    (f"info -x {NAME}", 3, "unrecognized arguments: -x"),
    (f"list-tags -q {NAME}", 3, "unrecognized arguments: -q"),
    (f"lstags {NAME} another.example.org", 3, "unrecognized arguments: another.example.org"),
]

SENSE: list[tuple[str, str]] = [
    # arguments, and what the message has in it; all of these fail with 1
    # "STORE" stands for -u with a directory that does not exist yet
    (f"mkfs -s s3.conf {NAME}", "There is no URL for the clients. Add -w"),
    (f"mkfs -s s3.conf -u local,a,b {NAME}", "-s and -u exclude each other"),
    (f"mkfs -u nfs,/a,/b {NAME}", "CVMFS_UPSTREAM_STORAGE=nfs,/a,/b is not of a known form"),
    (f"mkfs -u gw,/a,http://x {NAME}", "is a repository gateway"),
    (f"mkfs -u S3,/a,x@/nowhere/s3.conf {NAME}", "Cannot read the S3 settings in /nowhere/s3.conf"),
    (f"mkfs STORE -o nobody-of-that-name {NAME}", "There is no user 'nobody-of-that-name'"),
    (f"mkfs STORE -a md5 {NAME}", "md5"),
    (f"mkfs STORE -Z lzma {NAME}", "lzma"),
    (f"mkfs STORE -G whenever {NAME}", "CVMFS_AUTO_TAG_TIMESPAN=whenever is no point in time"),
    (f"mkfs STORE -k /nowhere {NAME}", "/nowhere"),
    ("mkfs in/valid", "'in/valid' is not a repository name"),
    ("mkfs .hidden", "'.hidden' is not a repository name"),
    ("mkfs ..", "'..' is not a repository name"),
    (f"mkfs {TOO_LONG}", f"'{TOO_LONG}' is not a repository name"),
    ("mkfs käse.example.org", "is not a repository name"),
    ("info", "0 repositories are configured in "),
    ("info _x", "'_x' is not a repository name"),
    ("info unknown.example.org", "There is no "),
    ("transaction unknown.example.org", "There is no "),
    ("transaction ../etc", "'..' is not a repository name"),
    ("transaction /etc", "'' is not a repository name"),
    ("transaction -T /a unknown.example.org", "'/a' is not of the form FROM=TO"),
    ("transaction -T /a=/b=/c unknown.example.org", "'/a=/b=/c' is not of the form FROM=TO"),
    ("transaction --lasting -T /a=/b unknown.example.org", "A lasting transaction is on the whole repository"),
    ("transaction --lasting unknown.example.org/sw", "A lasting transaction is on the whole repository"),
    ("transaction -T /a= unknown.example.org", "A template needs both directories"),
    ("transaction -T =/b unknown.example.org", "A template needs both directories"),
    ("transaction -T /=/b unknown.example.org", "The root of a repository is neither copied nor replaced"),
    ("transaction -T /a=/ unknown.example.org", "The root of a repository is neither copied nor replaced"),
    ("transaction -T /a=/a unknown.example.org", "/a cannot be copied into itself, to /a"),
    ("transaction -T /a=/a/b unknown.example.org", "/a cannot be copied into itself, to /a/b"),
    ("transaction -T /a=/b/../c unknown.example.org", "'/b/../c' is not a path inside a repository"),
    ("transaction -T /a=/.cvmfs/b unknown.example.org", "/.cvmfs/b belongs to CernVM-FS itself"),
    ("transaction -T /a=/b -U /a -V /c unknown.example.org", "-T excludes -U and -V"),
    ("transaction -U /a unknown.example.org", "A template needs both directories"),
    ("transaction -V /a unknown.example.org", "A template needs both directories"),
    ("publish unknown.example.org", "There is no "),
    ("publish ../../etc", "'..' is not a repository name"),
    ("publish --changes /nowhere/changes.json unknown.example.org", "Cannot read the changes from /nowhere"),
    ("check -a unknown.example.org", "-a checks all repositories. Leave it out"),
    ("check -a -t tag", "-a checks all repositories"),
    ("abort -f unknown.example.org", "There is no "),
    ("ingest -b / -t - ../etc", "'..' is not a repository name"),
    ("ingest unknown.example.org", "There is nothing to do. Use --tar_file, --directory, --image or --s3"),
    ("ingest -b sw unknown.example.org", "There is a base directory, but nothing to put there"),
    ("ingest --s3-prefix x -d a unknown.example.org", "--s3-prefix is for --s3"),
    ("ingest --image-reference 1.0 -d a unknown.example.org", "--image-reference is for --image"),
    ("ingest -t x.tar unknown.example.org", "There is no place for x.tar. Add --base_dir"),
    ("ingest -d / unknown.example.org", "The root of a repository cannot be deleted"),
    ("ingest -d a/../b unknown.example.org", "'a/../b' is not a path inside a repository"),
    ("ingest -t x.tar -b a/../../etc unknown.example.org", "'a/../../etc' is not a path inside a repository"),
    ("ingest -t x.tar -b / -k -u root unknown.example.org", "Ownership is either kept or set"),
    ("ingest -t x.tar -b / -g root unknown.example.org", "--group needs --user"),
    ("ingest -t x.tar -b / -u nobody-of-that-name unknown.example.org", "There is no user 'nobody-of-that-name'"),
    ("ingest -t x.tar -b / -u root -g none-of-that-name unknown.example.org", "There is no group"),
    ("tag unknown.example.org", "There is no "),
    ("tag -l http://", "The repository's address is not an HTTP URL"),
    ("tag -l http://127.0.0.1:1/_x", "'_x' is not a repository name"),
    ("tag -l http://127.0.0.1:1/unknown.example.org", "There is no "),
    ("tag -a new http://127.0.0.1:1/unknown.example.org", "'http://127.0.0.1:1/unknown.example.org' is not a"),
    ("rollback unknown.example.org", "There is no "),
    ("rollback -f -t old ../etc", "'../etc' is not a repository name"),
    ("diff unknown.example.org", "There is no "),
    ("diff ftp://127.0.0.1/unknown.example.org", "The repository's address is not an HTTP URL"),
    ("diff -k /nowhere http://127.0.0.1:1/unknown.example.org", "public key"),
    ("checkout unknown.example.org", "There is no "),
    ("checkout -t old unknown.example.org", "There is no branch for what is to be published"),
    ("rmfs unknown.example.org", "There is no "),
    ("rmfs -f ../etc", "'../etc' is not a repository name"),
    ("print-stats unknown.example.org", "There is no "),
    ("merge-stats /nowhere/1.db /nowhere/2.db", "There is no /nowhere/1.db. Name two statistics databases"),
    ("update-repoinfo -f /nowhere/file unknown.example.org", "Cannot read /nowhere/file"),
    ("update-repoinfo -f /dev/null unknown.example.org", "The meta information is no JSON"),
    ("update-info -e", "No repository is configured in "),
    ("skeleton -o nobody-of-that-name /nowhere", "There is no user 'nobody-of-that-name'"),
    ("list-tags unknown.example.org", "There is no "),
    ("resign unknown.example.org", "There is no "),
    ("resign --only -p unknown.example.org", "-p signs no whitelist, which --only is about"),
    ("resign -w /nowhere/whitelist unknown.example.org", "There is no master key "),
    ("resign -w /nowhere/whitelist", "-w is about one repository. Name it"),
    ("import in/valid", "'in/valid' is not a repository name"),
    (f"import -t {NAME}", "-t makes a certificate that has to be listed. Add -r"),
    (f"import -u gw,/a,http://x {NAME}", "There is no public key "),
    (f"import -r {NAME}", "There is no master key "),
    (f"import -k /no/such/keys {NAME}", "There is no public key /no/such/keys/"),
    ("gc -f unknown.example.org", "There is no "),
    ("gc -f -a", "There are no garbage-collectable repositories"),
    ("gc -f ../etc", "'../etc' is not a repository name"),
    ("gc -f -t whenever unknown.example.org", "-t=whenever is no point in time"),
    ("gc -f --orphans --orphans-before 2.2.2.2 unknown.example.org", "--orphans-before=2.2.2.2 is no point in time"),
    ("check unknown.example.org", "There is no "),
    ("list-catalogs unknown.example.org", "There is no "),
    ("list-catalogs ../etc", "'../etc' is not a repository name"),
    ("catalog-chown -u /nowhere/map -g /nowhere/map unknown.example.org", "Cannot read the map of owners /nowhere/map"),
    ("catalog-chown -u /dev/null -g /dev/null unknown.example.org", "/dev/null has no rule in it"),
    ("eliminate-hardlinks -f unknown.example.org", "There is no "),
    ("eliminate-bulk-hashes -f unknown.example.org", "There is no "),
    ("fix-stats -f unknown.example.org", "There is no "),
    ("migrate unknown.example.org", "There is no "),
    ("migrate ../etc", "'../etc' is not a repository name"),
    ("check ../etc", "'../etc' is not a repository name"),
    ("copy --from local,a,b unknown.example.org", "There is no "),
    ("mount unknown.example.org", "There is no "),
    ("enter unknown.example.org", "There is no "),
    ("lstags unknown.example.org", "There is no "),
]


@pytest.fixture
def nothing(tmp_path: Path) -> ReleaseManager:
    """A release manager without any repository."""
    manager = ReleaseManager(tmp_path / "manager", {"CVMFS_UPSTREAM_STORAGE": f"local,{tmp_path}/txn,{tmp_path}"})
    manager.server_conf.unlink()
    return manager


@pytest.fixture
def run(nothing: ReleaseManager, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs command lines in this process, as a new one for each would take minutes, and looks for what they leave."""
    monkeypatch.setenv("CVMFS_CONFIG_DIR", str(nothing.config_dir))
    before = everything(nothing.base.parent)

    def run_one(arguments: str) -> Outcome:
        storage = nothing.base / "storage"
        code = main.run(arguments.replace("STORE", f"-u local,{storage}/data/txn,{storage}").split())
        assert everything(nothing.base.parent) == before
        return Outcome(code, *capfd.readouterr())

    return run_one


def everything(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


@pytest.mark.parametrize(("arguments", "code", "says"), GRAMMAR)
def test_grammar(run: Run, arguments: str, code: int, says: str) -> None:
    outcome = run(arguments)
    assert outcome.code == code
    assert outcome.stdout == ""
    assert says in outcome.stderr


@pytest.mark.parametrize("command", UPSTREAM)
def test_all_subcommands_of_upstream(command: str) -> None:
    """Each of them is there, or is refused by its name."""
    assert command in COMMANDS or refusal_of(command) is not None


def refused_options() -> Iterator[tuple[str, str]]:
    """Yield all options that are refused, and those of refused subcommands."""
    options = native()
    for command in UPSTREAM:
        for option in UPSTREAM[command]:
            if command in REFUSED or type(options[command][option]).__name__ == "_Refused":
                yield command, option


@pytest.mark.parametrize(("command", "option"), list(refused_options()))
def test_what_is_refused_is_refused_by_its_name(run: Run, command: str, option: str) -> None:
    outcome = run(f"{command} {option} value {NAME}")
    assert (outcome.code, outcome.stdout) == (3, "")
    if command in REFUSED:
        assert outcome.stderr.strip() == refusal_of(command)
    else:
        assert f"cvmfs_server {command}: {option} is not supported by this engine: " in outcome.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_table_is_whole(command: str) -> None:
    """Each subcommand has wrong uses in these tables, of its grammar, and of its sense if it has any."""
    assert command in {arguments.partition(" ")[0] for arguments, _, _ in GRAMMAR}
    assert command in {arguments.partition(" ")[0] for arguments, _ in SENSE} | {"list"}


@pytest.mark.parametrize(("arguments", "says"), SENSE)
def test_sense(run: Run, arguments: str, says: str) -> None:
    refusal(run(arguments), arguments.split()[0], [says])


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    outcome = run(f"{command} --help")
    assert outcome.code == 0
    assert outcome.stdout.startswith(f"usage: cvmfs_server {command} ")
    assert outcome.stderr == ""


def test_the_program_is_this(nothing: ReleaseManager) -> None:
    """What the others try in this process is what the installed program does."""
    assert nothing.run(real=True).code == 2
    assert nothing.run("frobnicate", real=True).code == 3
    refusal(nothing.run("info", "unknown.example.org", real=True), "info", ["There is no "])
    assert nothing.run("--help", real=True).succeeded().stdout.startswith("usage: cvmfs_server ")


def test_names_and_descriptions_may_be_any_bytes(nothing: ReleaseManager) -> None:
    """Arguments that are not UTF-8 do not break anything."""
    assert nothing.run("info", b"\xff.example.org").code == 1
    assert nothing.run(b"\xff").code == 3
    assert nothing.run("ingest", "-d", b"a/\xff/..", "unknown.example.org").code == 1
