"""No request makes the hub fail: a small version of benchmarks/soak_fuzz.py, with fixed seeds.

One server, in a process of its own, bears all of it; the last test looks at what is left of it.
`fuzz` holds the law, `fuzz_schema` asks what the document says, `fuzz_inputs` and `fuzz_http` what
nobody should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .fuzz import Target, guarded, look_at
from .fuzz_http import CAMPAIGNS
from .fuzz_inputs import Campaign, run
from .fuzz_schema import attack, operations
from .servers import Served

OPERATIONS = operations()
LABELS = [operation.label for operation in OPERATIONS]


@dataclass
class Attacked:
    """A hub that is attacked, and how often it answered with which status."""

    root: Path
    served: Served
    target: Target
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    root = tmp_path_factory.mktemp("fuzzed")
    with Served(root) as served:
        target = Target(served.url)
        target.prepare()
        yield Attacked(root, served, target)


@pytest.fixture(scope="module")
def guarded_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A hub with users, attacked by one of them."""
    root = tmp_path_factory.mktemp("guarded")
    headers = guarded(root)
    with Served(root) as served:
        target = Target(served.url, headers)
        target.prepare()
        yield Attacked(root, served, target)


@pytest.mark.parametrize("operation", OPERATIONS, ids=LABELS)
def test_every_operation_answers_as_the_document_says(attacked: Attacked, operation: Any) -> None:
    attacked.target.prepare()
    attacked.statuses += attack(attacked.target, operation, 3, 0)


@pytest.mark.parametrize("operation", OPERATIONS, ids=LABELS)
def test_so_it_does_on_a_hub_with_users(guarded_hub: Attacked, operation: Any) -> None:
    guarded_hub.target.prepare()
    guarded_hub.statuses += attack(guarded_hub.target, operation, 2, 1, edges=False)
    nobody = Target(guarded_hub.target.url)
    guarded_hub.statuses += attack(nobody, operation, 2, 2, edges=False)


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_nothing_that_is_sent_makes_the_hub_fail(attacked: Attacked, campaign: Campaign) -> None:
    attacked.target.prepare()
    run(campaign, attacked.target, 40, 0)


@pytest.mark.parametrize("path", ["/fuzz%2Fwas", "/api/models/fuzz%2Fwas"])
def test_a_name_of_one_part_is_followed_where_its_repository_moved(
    attacked: Attacked, path: str
) -> None:
    """It was a 500: the old name was looked for in two parts."""
    attacked.target.prepare()
    answer = attacked.target.ask("GET", path)
    assert answer.status == 307
    assert answer.headers["Location"].endswith("/fuzz/is")


def test_a_size_is_a_number_and_no_truth(attacked: Attacked) -> None:
    """`false` was taken for 0, and stood in the signed address."""
    path, oid = "/fuzz/m.git/info/lfs/objects/batch", "0" * 64
    wanted = {"operation": "upload", "objects": [{"oid": oid, "size": False}]}
    assert attacked.target.json("POST", path, wanted).status == 400
    files = {"files": [{"path": "a", "size": True}]}
    assert attacked.target.json("POST", "/api/models/fuzz/m/preupload/main", files).status == 400


def test_the_document_lists_every_status_by_itself() -> None:
    """A `default` would let any status pass for documented."""
    for operation in OPERATIONS:
        told = operation.definition.raw["responses"]
        assert not {"default", "4XX", "5XX", "500"} & told.keys(), operation.label


def test_what_is_left_is_in_order(attacked: Attacked, guarded_hub: Attacked) -> None:
    assert {200, 400, 404} <= attacked.statuses.keys(), "the campaigns got somewhere"
    assert {200, 400, 401, 404} <= guarded_hub.statuses.keys()
    look_at(attacked.root, attacked.served)
    look_at(guarded_hub.root, guarded_hub.served)
