"""A database from elsewhere: whatever its cells hold is read or refused with its place."""

import json
import math
import re
import shutil
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import JSON, event

from moeash.errors import MoeashError, StorageError
from moeash.study.events import Doing, Note
from moeash.study.storage.access.audit import Audit
from moeash.study.storage.access.secrets import digest_of
from moeash.study.storage.access.sessions import Sessions
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.records import GenerationRecord
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import METADATA
from moeash.study.storage.team.labels import Labels, StudyLabels
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing, Wanted
from moeash.study.study import Study
from tests.contracts.storage import COMPLETE, FACTS, Job, Recipe, add, replace


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.db"
    storage = SqlStorage(path)
    study = storage.create_study(FACTS)
    add(storage, study, 1)
    add(storage, study, 2, outcome=replace(COMPLETE, fingerprint="cd" * 16, artifact=b"bytes"))
    storage.hold(study.id, Job(Recipe.of({"k": 7})), COMPLETE)
    storage.put_generation(study.id, GenerationRecord(1, 0.5, 2, 1, 3, 1.5))
    storage.add_events(study.id, [Note("hello")])
    storage.set_activity(study.id, Doing("waiting", 1, 2))
    launches = Launches(storage.database)
    ran = launches.add("run", "digits", {"spec": "", "settings": []}, "somebody")
    claimed = launches.claim(ran.id, "process", {"host": "here", "starter": {}})
    assert launches.move(claimed, claimed.place, folder="/files/launches/1")
    launches.end(ran.id, 1, "it broke")
    Labels(storage.database).put(study.id, StudyLabels("notes", ("tag",), (1,)))
    token, _ = Tokens(storage.database).create("operator", expires_days=1)
    Sessions(storage.database).create("Ada", "operator", token=token)
    Audit(storage.database).add(
        who="Ada",
        role="operator",
        action="POST /studies",
        target="/studies",
        status=202,
        address="::1",
    )
    storage.close()
    change(path, "sessions", "digest", digest_of("cookie"))
    return path


@pytest.fixture
def copy(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "b.db")
    # While somebody has it open, not every reader that closes it folds the log into the file.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM studies").fetchall()
        yield path


def change(path, table, column, value):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f'UPDATE {table} SET "{column}" = ?', (value,))
        connection.commit()


def read_study(storage):
    study = Study(storage, "digits")
    study.status, study.front(), study.evaluations(), study.generations()


def read_launches(storage):
    launches = Launches(storage.database)
    launches.get(1)
    launches.active(), launches.newest(), launches.of_study("digits", "run"), launches.positions()


def read_charts(storage):
    listing = Listing(storage.database)
    listing.studies(Wanted(), order="bytes")
    found, _ = listing.columns(1)
    found.tally(), found.size_bytes.astype(int)


READERS = (
    lambda storage: list(storage.studies()),
    lambda storage: storage.summaries(),
    read_study,
    lambda storage: storage.held(1),
    lambda storage: storage.events(1),
    lambda storage: storage.points(1, ["size_bytes", "entries"]),
    lambda storage: storage.artifact(1, "cd" * 16),
    lambda storage: storage.artifacts(1),
    read_launches,
    read_charts,
    lambda storage: Tokens(storage.database).list(),
    lambda storage: Sessions(storage.database).find("cookie"),
    lambda storage: Audit(storage.database).page(),
    lambda storage: Labels(storage.database).of([1]),
)


def read_everything(storage, readers=READERS):
    with storage.database.kept_open():  # to open it takes longer than to read it
        for read in readers:
            read(storage)


@pytest.fixture(scope="module")
def readers_of(whole, tmp_path_factory):
    """Those of the readers that ask for anything of a table, by its name."""
    path = shutil.copy(whole, tmp_path_factory.mktemp("asked") / "a.db")
    storage = SqlStorage(path, create=False)
    asked = []
    event.listen(storage.database.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    found = {name: [] for name in METADATA.tables}
    for read in READERS:
        asked.clear()
        read(storage)
        for name in found:
            if any(re.search(rf"\b{name}\b", statement) for statement in asked):
                found[name].append(read)
    storage.close()
    return found


JSON_VALUES = ["null", "17", '"text"', "[1]", "{}", "{", "[" * 9999, '{"evaluation": 3}', b"\xff"]
VALUES = ["text", b"\xff\x00", -1, 1.5, 1e308, 2**62, math.inf, "", None]


HARMLESS = {
    "key",
    "recipe",
    "created_at",
    "updated_at",
    "uid",
    "path",
    "artifact",
    "error",
    "owner",
}
"""Read as any text."""

HARMLESS |= {"retriable", "archived"}  # what is not zero is true


def cells():
    for table in METADATA.tables.values():
        if table.name != "fences":
            for column in table.columns:
                if not (column.primary_key or column.foreign_keys):
                    yield table.name, column


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), list(cells()), ids=str)
def test_no_cell_of_a_database_from_elsewhere_raises_a_foreign_exception(
    copy, readers_of, table, column
):
    readers = readers_of[table]
    assert readers, "everything stored is read by something"
    refused, opened = 0, []
    for value in JSON_VALUES if isinstance(column.type, JSON) else VALUES:
        try:
            change(copy, table, column.name, value)
        except sqlite3.IntegrityError:  # the schema itself says no
            continue
        try:
            # Once a cell: to open a database takes longer than to read it.
            opened = opened or [SqlStorage(copy, create=False)]
            read_everything(*opened, readers)
        except MoeashError:
            refused += 1
    for storage in opened:
        storage.close()
    assert refused or str(column.type) in ("TEXT",) or column.name in HARMLESS


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("studies", "spec", "17", r"row id 1 of table studies .* spec is 17 and should be a JSON"),
        ("studies", "spec", "{", "table .*studies.* does not write"),
        ("studies", "objectives", '["colour"]', "objectives is .* should be a list of"),
        ("studies", "reference", '["x", 1]', "reference is .* should be a list of numbers"),
        ("studies", "baseline", "high", "table .*studies"),
        ("studies", "original_bytes", -5, "should be a whole number from 0 on"),
        ("studies", "status", "asleep", "should be one of running, interrupted"),
        ("evaluations", "metric", "good", r"study 1 of the database|row study_id 1"),
        ("evaluations", "metric", None, "it is complete without metric"),
        ("evaluations", "bound", None, "it is complete without bound"),
        ("evaluations", "size_bytes", "x", "study 1|row study_id 1"),
        ("evaluations", "recipe", "[]", "row study_id 1, number 1 of table evaluations"),
        ("evaluations", "recipe", json.dumps({"candidate": {}, "steps": 3}), "table evaluations"),
        ("events", "payload", "[1]", "row id 1 of table events .* should be a JSON object"),
        ("generations", "hypervolume", math.inf, "should be a finite number"),
        ("launches", "state", "asleep", "row id 1 of table launches .* one of queued, running"),
        ("launches", "kind", "", "should be one of run, export"),
        ("launches", "place", "[1]", "place is .* should be a JSON object"),
        ("launches", "exit_code", -9, "exit_code is -9 and should be a whole number from 0 on"),
        ("tokens", "role", "root", "row id 1 of table tokens .* should be one of viewer, operator"),
        ("tokens", "expires_at", "soon", "row id 1 of table tokens .* Invalid isoformat"),
        ("tokens", "used_at", "2026-01-01T00:00:00", "row id 1 of table tokens .* says no zone"),
        ("sessions", "role", "root", "table sessions .* should be one of viewer, operator, admin"),
        ("sessions", "expires_at", "later", "row digest .* of table sessions"),
        ("audit", "status", "fine", "row id 1 of table audit .* should be a whole number"),
    ],
)
def test_what_moeash_does_not_write_is_refused_with_its_place(copy, table, column, value, message):
    change(copy, table, column, value)
    with pytest.raises(StorageError, match=message):
        read_everything(SqlStorage(copy, create=False))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("stage", "napping", "stage is unknown"),
        ("status", "asleep", "status is unknown"),
        ("generation", -1, "generation is -1"),
        ("generation", math.inf, "generation is inf"),
        ("size_bytes", math.inf, "size_bytes is infinite"),
        ("duration_s", -math.inf, "duration_s is infinite"),
    ],
)
def test_what_charts_are_drawn_from_is_what_moeash_writes(copy, column, value, message):
    change(copy, "evaluations", column, value)
    with (
        closing(SqlStorage(copy, create=False)) as storage,
        pytest.raises(StorageError, match=f"an evaluation of study 1 .* {message}"),
    ):
        Listing(storage.database).columns(1)


@pytest.mark.parametrize("column", ["bound", "size_bytes", "entries", "bits_per_weight"])
def test_a_stopped_evaluation_is_read_for_its_bound_and_sizes(copy, column):
    change(copy, "evaluations", "status", "stopped")
    change(copy, "evaluations", column, None)
    with pytest.raises(StorageError, match=f"it is stopped without {column}"):
        read_everything(SqlStorage(copy, create=False))
