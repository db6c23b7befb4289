"""Write the database file of the newest revision: ``python -m tests.study.assets.make``.

Run once for each new revision and commit the file; never overwrite an older one.
"""

from pathlib import Path

from moeash import api
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
    api.run(spec, storage=SqlStorage(str(path)))
