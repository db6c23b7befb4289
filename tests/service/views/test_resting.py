"""Lists of studies are read again when something was stored, or who holds a study is another."""

import pytest

from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.team.listing import Wanted
from tests.contracts.storage import add, facts
from tests.databases import stored_at
from tests.service.whole import whole_service


@pytest.fixture
def service(tmp_path):
    with whole_service(tmp_path) as running:
        yield running


@pytest.fixture
def other(service):
    """The same database as another process has it."""
    storage = stored_at(service.storage.database.path)
    yield storage
    storage.close()


def listed(service):
    return service.context.studies.page(Wanted(), "updated", None, 50)


def test_a_list_is_that_of_before_until_something_is_stored(service, other):
    study = other.create_study(facts())
    first = listed(service)
    assert listed(service) is first
    add(other, study, 1)
    assert (first.items[0].evaluations, listed(service).items[0].evaluations) == (0, 1)


def test_a_list_knows_at_once_that_a_study_runs_and_that_it_died(service, other):
    """Neither is stored: a lock tells."""
    other.create_study(facts())
    assert listed(service).items[0].status == "crashed"
    with other.lock("digits"):
        assert listed(service).items[0].status == "running"
    assert listed(service).items[0].status == "crashed"


def test_a_token_revoked_elsewhere_lets_nobody_in_at_once(service, other):
    record, secret = Tokens(other.database).create("viewer")
    tokens = service.context.auth.tokens
    assert tokens.find(secret) and tokens.find(secret)
    Tokens(other.database).revoke(record.id)
    assert tokens.find(secret) is None
