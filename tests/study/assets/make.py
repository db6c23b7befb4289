"""Write the database file of the newest revision: ``python -m tests.study.assets.make``.

Run once for each new revision and commit the file; never overwrite one that was released.
"""

import sqlite3
from pathlib import Path

import moeash
from moeash.study.storage.schema import HEAD
from moeash.study.storage.sql import SqlStorage
from tests.digits import digits_spec

if __name__ == "__main__":
    path = Path(__file__).with_name(f"{HEAD}.db")
    assert not path.exists(), f"{path} is committed already"
    spec = digits_spec(
        evaluation={"max_drop": 0.1},
        search={"population": 5},
        budget={"generations": 3},
        merge={"trials": 4},
    )
    storage = SqlStorage(str(path))
    moeash.run(spec, storage=storage)
    storage.close()
    with sqlite3.connect(path) as connection:  # one file, without the log beside it
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA page_size = 1024")  # many tables, few rows
        connection.execute("VACUUM")
    connection.close()
    for lock in path.parent.glob(f"{path.name}-*.lock"):
        lock.unlink()
