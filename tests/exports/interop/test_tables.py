import json

import pandas as pd
import pytest

from moeash.errors import InputError
from moeash.exports.interop.tables import TABLE_KINDS, write_table
from moeash.study.opening import open_study

READERS = {
    "csv": pd.read_csv,
    "json": lambda path: pd.DataFrame(json.loads(path.read_text())),
    "parquet": pd.read_parquet,
}


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_table_holds_every_evaluation(tiny, tmp_path, kind):
    study = open_study("tiny", tiny.storage)
    path = tmp_path / f"all.{kind}"
    assert write_table(study, path) == path.stat().st_size
    frame, read = study.to_dataframe(), READERS[kind](path)
    assert list(read.columns) == list(frame.columns) and len(read) == len(frame) > 5
    for column in ("id", "k", "size_bytes", "metric", "stage", "on_front"):
        assert read[column].tolist() == frame[column].tolist() or frame[column].isna().any()


@pytest.mark.parametrize("name", ["all.xlsx", "all", "csv"])
def test_a_name_of_no_table_is_refused(tiny, tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.csv, \.json, \.parquet"):
        write_table(open_study("tiny", tiny.storage), tmp_path / name)
    assert not list(tmp_path.iterdir())
