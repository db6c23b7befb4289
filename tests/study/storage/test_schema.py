"""The schema, its migrations, and databases that older versions wrote."""

import re
import shutil
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moeash.evaluation.evaluate import Evaluator
from moeash.study.plan import task_of
from moeash.study.storage import schema
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import METADATA
from moeash.study.study import Study

ASSETS = Path(__file__).parents[1] / "assets"


def test_the_tables_are_what_the_newest_migration_makes(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    with storage._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_the_revisions_are_those_of_the_migrations_folder():
    folder = Path(schema.__file__).with_name("migrations") / "versions"
    sources = [path.read_text() for path in sorted(folder.glob("r*.py"))]
    found = [re.search(r'^revision = "(\w+)"', source, re.M)[1] for source in sources]
    parents = [re.search(r'^down_revision = (?:"(\w+)"|None)', s, re.M)[1] for s in sources]
    assert tuple(found) == schema.REVISIONS
    assert parents == [None, *found[:-1]]


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_a_database_of_every_past_revision_opens(tmp_path, revision):
    path = tmp_path / "old.db"
    shutil.copy(ASSETS / f"{revision}.db", path)
    study = Study(SqlStorage(str(path)), "digits")
    assert study.record.status == "finished" and study.facts.objectives == ("size_bytes",)
    records = study.evaluations()
    assert {r.stage for r in records} == {"search", "merged"}
    assert {r.outcome.status for r in records} == {"complete", "stopped"}
    assert [s.id for s in study.front()] and len(study.generations()) == 3
    assert all(r.job.floor == study.facts.baseline - 0.1 - 1e-12 for r in records if not r.parent)


@pytest.mark.parametrize("revision", schema.REVISIONS)
def test_a_front_of_every_past_revision_rebuilds_bit_for_bit(tmp_path, revision):
    path = tmp_path / "old.db"
    shutil.copy(ASSETS / f"{revision}.db", path)
    study = Study(SqlStorage(str(path)), "digits")
    evaluator = Evaluator(task_of(study))
    try:
        for solution in study.front():
            built = evaluator.build(solution.record.job)
            assert built.fingerprint() == solution.record.outcome.fingerprint
    finally:
        evaluator.close()
