"""The schema, its migrations, and a database of every revision since the first."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moeash.core.solutions.recipe import Recipe
from moeash.exports.building import building
from moeash.study.storage import schema
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import METADATA
from moeash.study.study import Study

ASSETS = Path(__file__).parents[1] / "assets"


def test_the_tables_are_what_the_newest_migration_makes(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    with storage.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_the_revisions_are_those_of_the_migrations_folder():
    folder = Path(schema.__file__).with_name("migrations") / "versions"
    sources = [path.read_text() for path in sorted(folder.glob("r*.py"))]
    found = [re.search(r'^revision = "(\w+)"', source, re.M)[1] for source in sources]
    parents = [re.search(r'^down_revision = (?:"(\w+)"|None)', s, re.M)[1] for s in sources]
    assert tuple(found) == schema.REVISIONS
    assert parents == [None, *found[:-1]]


@pytest.fixture(params=schema.REVISIONS)
def stored(request, tmp_path):
    """The study of a database that the first moeash with that revision wrote."""
    path = tmp_path / "old.db"
    shutil.copy(ASSETS / f"{request.param}.db", path)
    storage = SqlStorage(str(path))
    yield Study(storage, "digits")
    storage.close()


def test_a_database_of_every_revision_since_the_first_release_is_upgraded(stored):
    with stored.storage.database.engine.connect() as connection:
        assert schema.current_revision(connection) == schema.HEAD
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_database_of_every_revision_is_read(stored):
    assert stored.status == "finished" and stored.facts.objectives == ("size_bytes",)
    records = stored.evaluations()
    assert {r.stage for r in records} == {"search", "merged"}
    assert {r.outcome.status for r in records} == {"complete", "stopped"}
    assert [s.id for s in stored.front()] and len(stored.generations()) == 3
    (summary,) = stored.storage.summaries()
    assert summary.n() == len(records)
    assert stored.storage.n_events(stored.record.id, "evaluated") == len(records)


def test_a_front_of_every_revision_rebuilds_bit_for_bit(stored):
    with building(stored) as build:
        for solution in stored.front():
            assert build(solution.recipe).fingerprint() == solution.record.outcome.fingerprint


def test_a_database_of_every_revision_is_written_on(stored):
    storage, study_id = stored.storage, stored.record.id
    records = stored.evaluations()
    with storage.lock("digits"):
        number = records[-1].number + 1
        storage.add_evaluations(study_id, [add_to(records[-1], number)])
    assert storage.evaluation(study_id, number).number == number


def add_to(record, number):
    job = replace(record.job, recipe=Recipe.of({"k": 10_000}))
    return replace(record, number=number, job=job)
