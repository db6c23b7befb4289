import json

import pytest
from typer.testing import CliRunner

from moeash.cli.main import app
from tests.exports.conftest import make_study

__all__ = ["make_study"]

FACTS = {"baseline": 0.98, "original_bytes": 10_000}


@pytest.fixture
def storage(make_study, tmp_path):
    make_study([(0.97, 3000), (0.9, 1000)], name="one", **FACTS)
    make_study([(0.95, 2000)], name="other", **FACTS)
    return str(tmp_path / "studies.db")


def told(*arguments):
    result = CliRunner().invoke(app, ["compare", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json_is_one_document(storage):
    document = json.loads(told("one", "other", "--storage", storage, "--json", "--drop", "0.04"))
    assert document["at_equal_drop"] == [{"drop": 0.04, "bytes": {"one": 3000, "other": 2000}}]
    assert document["coverage"]["one"] == {"other": 0.0}


def test_people_see_tables_with_a_row_a_study_and_a_row_a_drop(storage):
    lines = told("one", "other", "--storage", storage, "--drop", "0.04", "--drop", "0.01").split(
        "\n"
    )
    rows = [line.split() for line in lines]
    assert ["0.04", "3,000", "2,000"] in rows
    assert ["0.01", "-", "-"] in rows
    assert any(row[:3] == ["one", "uniform", "2"] for row in rows)
