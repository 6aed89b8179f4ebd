# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of s3.conf."""

from __future__ import annotations

import shlex
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.errors import ConfigurationError
from cvmfs_publisher.storage import LocalStore, S3Config, S3Store, open_store
from cvmfs_publisher.storage.retry import RetryPolicy

MINIMAL = """
CVMFS_S3_HOST=rgw.example.org
CVMFS_S3_BUCKET=cvmfs
CVMFS_S3_ACCESS_KEY=access
CVMFS_S3_SECRET_KEY=secret
"""


def parse(extra: str = "", *, base: str = MINIMAL, prefix: str = "sw.example.org") -> S3Config:
    return S3Config.parse(base + extra, prefix, source="/etc/cvmfs/s3.conf", environment={})


def test_defaults_are_upstreams() -> None:
    config = parse()
    assert config == S3Config(
        host="rgw.example.org",
        bucket="cvmfs",
        access_key="access",
        secret_key="secret",  # noqa: S106
        prefix="sw.example.org",
        port=None,
        https=False,
        region="us-east-1",
        dns_buckets=True,
        proxy=None,
        timeout=60,
        parallel=16,
        acl="public-read",
        peek=False,
        retry=RetryPolicy(initial=0.1, maximum=10, total=300, at_least=0),
    )
    assert config.endpoint == "http://rgw.example.org"


def test_honours_every_documented_setting() -> None:
    config = parse(
        """
# a comment
CVMFS_S3_PORT=8080   # another
export CVMFS_S3_REGION=cern
CVMFS_S3_FLAVOR=awsv4
CVMFS_S3_SESSION_TOKEN=token
CVMFS_S3_TIMEOUT=20
CVMFS_S3_MAX_RETRIES=7
CVMFS_S3_BACKOFF_INIT=50
CVMFS_S3_BACKOFF_MAX=4000
CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS=400
CVMFS_S3_DNS_BUCKETS=false
CVMFS_S3_PEEK_BEFORE_PUT=yes
CVMFS_S3_BATCH_DELETE=true
CVMFS_S3_BATCH_DELETE_SIZE=100
CVMFS_S3_USE_HTTPS=on
CVMFS_S3_X_AMZ_ACL=""
CVMFS_S3_PROXY=http://squid.example.org:3128
X509_CERT_BUNDLE=/etc/ssl/own.pem
X509_CERT_DIR=/etc/grid-security/certificates
SOMETHING_ELSE=is not ours
""".replace("SOMETHING_ELSE=is not ours", "SOMETHING_ELSE='is not ours'")
    )
    assert config == S3Config(
        host="rgw.example.org",
        bucket="cvmfs",
        access_key="access",
        secret_key="secret",  # noqa: S106
        session_token="token",  # noqa: S106
        prefix="sw.example.org",
        port=8080,
        https=True,
        region="cern",
        dns_buckets=False,
        proxy="http://squid.example.org:3128",
        timeout=20,
        parallel=400,
        acl="",
        peek=True,
        retry=RetryPolicy(initial=0.05, maximum=4, total=300, at_least=7),
        ca_bundle="/etc/ssl/own.pem",
        ca_path="/etc/grid-security/certificates",
    )
    assert config.endpoint == "https://rgw.example.org:8080"


def test_knows_temporary_keys_and_none_at_all() -> None:
    assert parse("CVMFS_S3_SESSION_TOKEN='a/token+='").session_token == "a/token+="  # noqa: S105
    anonymous = parse(base=MINIMAL.replace("=access", "=").replace("=secret", "="))
    assert (anonymous.access_key, anonymous.secret_key) == ("", "")


@pytest.mark.parametrize(
    "base",
    [
        MINIMAL.replace("=access", "="),
        MINIMAL.replace("=secret", "="),
        MINIMAL.replace("=access", "=").replace("=secret", "=") + "CVMFS_S3_SESSION_TOKEN=x\n",
    ],
)
def test_refuses_half_a_pair_of_keys(base: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sets some of CVMFS_S3_ACCESS_KEY.* to nothing\. Set both keys"):
        parse(base=base)


def test_takes_authorities_from_the_environment() -> None:
    environment = {"X509_CERT_BUNDLE": "/a.pem", "X509_CERT_DIR": "/a"}
    config = S3Config.parse(MINIMAL, environment=environment)
    assert (config.ca_bundle, config.ca_path) == ("/a.pem", "/a")


def test_no_retries_means_none() -> None:
    assert parse("CVMFS_S3_MAX_RETRIES=0").retry.total == 0


@pytest.mark.parametrize(("text", "dns"), [("no", False), ("FALSE", False), ("0", False), ("", True), ("On", True)])
def test_switches(text: str, dns: bool) -> None:
    assert parse(f"CVMFS_S3_DNS_BUCKETS={text}").dns_buckets is dns


def test_fills_in_the_repository_name() -> None:
    config = parse(base=MINIMAL.replace("=cvmfs\n", "=@fqrn@\n"), prefix="cvmfs/sw.example.org")
    assert (config.bucket, config.prefix) == ("sw.example.org", "cvmfs/sw.example.org")


@pytest.mark.parametrize("name", ["HOST", "BUCKET", "ACCESS_KEY", "SECRET_KEY"])
def test_names_what_is_missing(name: str) -> None:
    base = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(f"CVMFS_S3_{name}="))
    with pytest.raises(ConfigurationError, match=rf"/etc/cvmfs/s3\.conf does not set CVMFS_S3_{name}\."):
        parse(base=base)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("CVMFS_S3_FLAVOUR=awsv4", "sets CVMFS_S3_FLAVOUR, which"),
        ("CVMFS_S3_FLAVOR=azure", "CVMFS_S3_FLAVOR=azure.*not supported"),
        ("CVMFS_S3_FLAVOR=awsv2", "CVMFS_S3_FLAVOR=awsv2.*not supported"),
        ("CVMFS_S3_HOST=http://rgw.example.org", "not a host name.*Leave out http://"),
        ("CVMFS_S3_PORT=http", "CVMFS_S3_PORT=http"),
        ("CVMFS_S3_PORT=0", "CVMFS_S3_PORT=0"),
        ("CVMFS_S3_TIMEOUT=-1", "CVMFS_S3_TIMEOUT=-1"),
        ("CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS=0", "PARALLEL_CONNECTIONS=0"),
        ("CVMFS_S3_X_AMZ_ACL=public", "CVMFS_S3_X_AMZ_ACL=public"),
        ("CVMFS_S3_BUCKET=a/b", "CVMFS_S3_BUCKET=a/b"),
        ("CVMFS_S3_PROXY=socks://a", "CVMFS_S3_PROXY"),
        ("CVMFS_S3_USE_HTTPS=ture", "CVMFS_S3_USE_HTTPS=ture in .* is neither true nor false"),
        ("CVMFS_S3_DNS_BUCKETS=nope", "CVMFS_S3_DNS_BUCKETS=nope in .* is neither true nor false"),
        ("CVMFS_S3_PEEK_BEFORE_PUT=2", "CVMFS_S3_PEEK_BEFORE_PUT=2 in .* is neither true nor false"),
        ("CVMFS_S3_REGION=a b", "Line 6 of .* is not of the form NAME=value"),
        ("CVMFS_S3_REGION='a", "Line 6 of .* is not of the form NAME=value"),
        ("rm -rf /", "Line 6 of .* is not of the form NAME=value"),
        ("CVMFS_S3_REGION=$HOSTNAME", "Line 6 .*needs a shell.*CVMFS_S3_REGION"),
        ('CVMFS_S3_REGION="`hostname`"', "Line 6 .*needs a shell.*CVMFS_S3_REGION"),
    ],
)
def test_refuses_by_name(line: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse(line)


def test_errors_do_not_show_secrets() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(base=MINIMAL.replace("SECRET_KEY=secret", "SECRET_KEY=se cret"))
    assert "cret" not in str(caught.value).replace("SECRET", "")


@pytest.mark.parametrize("name", ["PROXY", "HOST"])
@pytest.mark.parametrize("value", ["http://user:hidden@host:3128", "user:hidden@host"])
def test_errors_do_not_show_passwords_in_urls(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"CVMFS_S3_{name}=(http://)?…@host") as caught:
        parse(f"CVMFS_S3_{name}={value}")
    assert "hidden" not in str(caught.value)


@given(st.text(string.printable + "äß", min_size=1).filter(lambda text: not {"\n", "@"} & set(text)))
def test_reads_quoted_values_as_a_shell_does(secret: str) -> None:
    config = parse(base=MINIMAL.replace("SECRET_KEY=secret", f"SECRET_KEY={shlex.quote(secret)}"))
    assert config.secret_key == secret


@given(st.text("ab \"'\\#$`;=~:", min_size=1))
def test_reads_whatever_it_accepts_as_a_shell_does(text: str) -> None:
    try:
        config = parse(base=MINIMAL.replace("SECRET_KEY=secret", f"SECRET_KEY={text}"))
    except ConfigurationError:
        return
    script = f'CVMFS_S3_SECRET_KEY={text}\nprintf %s "$CVMFS_S3_SECRET_KEY"'
    assert subprocess.check_output(["/bin/sh", "-c", script], text=True) == config.secret_key


def test_opens_what_upstream_storage_names(tmp_path: Path) -> None:
    path = tmp_path / "s3.conf"
    path.write_text(MINIMAL)
    with open_store(f"S3,/var/spool/cvmfs/tmp,cvmfs/sw.example.org@{path}") as store:
        assert isinstance(store, S3Store)
        assert store.describe() == "bucket cvmfs at http://rgw.example.org"
        assert store.concurrency == 16
    with open_store(f"local,{tmp_path}/a/data/txn,{tmp_path}/a") as store:
        assert isinstance(store, LocalStore)


@pytest.mark.parametrize(
    ("upstream", "text"),
    [
        ("S3,/tmp,sw.example.org@/no/such/s3.conf", "/no/such/s3.conf"),
        ("S3,/tmp,sw.example.org", "not of a known form"),
        ("S3,sw.example.org@/etc/s3.conf", "not of a known form"),
        ("local,/srv", "not of a known form"),
        ("local,,", "not of a known form"),
        ("gw,/tmp,http://gateway.example.org:4929/api/v1", "gateway"),
        ("", "not of a known form"),
    ],
)
def test_refuses_other_upstream_storage(upstream: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        open_store(upstream)
