# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bucket policies are the same."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.modules import cvmfs_s3_bucket

READ = {"Sid": "read", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"], "Resource": ["a/*"]}
LIST = {"Sid": "list", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:ListBucket"], "Resource": ["a"]}


def same(*statements: dict[str, Any]) -> bool:
    normal = cvmfs_s3_bucket._normal
    return normal({"Version": "2012-10-17", "Statement": list(statements)}) == normal({"Statement": [READ, LIST]})


def test_services_give_policies_back_in_forms_of_their_own() -> None:
    assert same({**LIST, "Sid": ""}, {**READ, "Principal": "*", "Action": "s3:GetObject", "Resource": "a/*"})


@pytest.mark.parametrize(
    "change",
    [
        {"Effect": "Deny"},
        {"Action": ["s3:*"]},
        {"Principal": {"AWS": ["arn:aws:iam:::user/other"]}},
        {"Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_makes_a_difference(change: dict[str, Any]) -> None:
    assert not same({**READ, **change}, LIST)


def test_a_policy_that_is_missing() -> None:
    assert cvmfs_s3_bucket._normal(None) is None
    assert not same(READ)
