"""The comparison's arithmetic: scripts, but their numbers are quoted."""

import pytest

from studies.comparison.equal_cost import size_at
from studies.comparison.rows import put_rows, read_rows
from studies.comparison.tables import put_table


def row(**changes):
    return {"network": "a", "peer": "b", "setting": "c", "size_bytes": 10} | changes


def test_the_size_at_a_cost_is_exact_on_a_power_law():
    points = [(1000 * cost**-0.5, cost) for cost in (0.01, 0.04, 0.25)]
    size, inside = size_at(points, 0.16)
    assert size == pytest.approx(2500)
    assert inside


def test_noise_of_the_cost_averages_out_over_the_points():
    points = [
        (1000 * cost**-0.5, cost * noise)
        for cost, noise in ((0.01, 1.05), (0.02, 0.95), (0.04, 0.95), (0.08, 1.05))
    ]
    assert size_at(points, 0.03)[0] == pytest.approx(1000 * 0.03**-0.5, rel=0.01)


def test_a_cost_beyond_all_points_is_told_from_one_among_them():
    points = [(100.0, 0.1), (200.0, 0.01)]
    assert size_at(points, 0.01)[1]
    assert not size_at(points, 0.009)[1]
    assert not size_at(points, 0.11)[1]


def test_points_of_one_cost_are_refused():
    with pytest.raises(ValueError, match="the same cost"):
        size_at([(100.0, 0.1), (200.0, 0.1)], 0.1)


def test_a_row_measured_again_replaces_the_old_one_and_no_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    put_rows([row(), row(setting="d")], path)
    put_rows([row(size_bytes=7)], path)
    assert [(r["setting"], r["size_bytes"]) for r in read_rows(path)] == [("c", 7), ("d", 10)]


def test_a_table_is_replaced_between_its_comments_only(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("x\n<!-- t -->\nold\n<!-- end t -->\ny\n")
    for table in ("| new |", "| newer |"):
        put_table("t", table, path)
    assert path.read_text() == "x\n<!-- t -->\n| newer |\n<!-- end t -->\ny\n"
    with pytest.raises(SystemExit, match="no place for the table 'u'"):
        put_table("u", "", path)


def test_methods_of_few_values_stand_beside_bins_at_their_own_divergence(script):
    fixing = script("fixing")
    shared = {"network": "lenet5", "setting": "delta=1", "study": "a", "solution": 3}
    rows = [shared | {"peer": "moeash wfn", "size_bytes": 900, "holdout_kl": 0.1}]
    rows[0] |= {"holdout_drop": 0.002, "search_drop": 0.001, "entropy": 2.567}
    for peer, factor in (("moeash uniform", 1), ("moeash feedback", 0.5)):
        points = ((400, 0.2, 0.001), (1600, 0.05, 0.003), (6400, 0.0125, 0.0))
        rows += [
            shared
            | {"peer": peer, "size_bytes": int(factor * size), "holdout_kl": kl}
            | {"search_drop": drop}
            for size, kl, drop in points
        ]
    solution = {"id": 3, "entries": 40, "bits_per_weight": 2.345}
    front = {"front": [solution], "evaluation_seconds": 600, "evaluations": 2, "spec": {}}
    assert fixing.table(rows, {"a": front}).splitlines()[2] == (
        "| LeNet-5 | wfn, delta=1 | 40 | 2.57 | 2.35 | 900 | 0.0020 | 0.1 "
        "| 800 | 400 | 400 | 200 | 5 |"
    )
    rows[0] |= {"search_drop": -0.001, "holdout_kl": 0.01}
    assert "| 0.01 | (8,000) | none | (4,000) | none | 5 |" in fixing.table(rows, {"a": front})
    front["spec"] = {"distill": {"solutions": 1}}
    assert fixing.table(rows, {"a": front}).endswith("| 10 |"), "one solution, trained twice"


def test_yesterdays_files_are_held_against_todays_at_equal_divergence(script):
    older = script("older")
    own = {"network": "lenet5", "peer": "moeash gpfq"}

    def rows(factor, kls):
        return [own | {"size_bytes": factor / kl, "holdout_kl": kl} for kl in kls]

    before, today = rows(1000, (0.01, 0.04, 0.16)), rows(900, (0.02, 0.08, 0.32))
    new = own | {"peer": "moeash feedback", "size_bytes": 7, "holdout_kl": 1}
    assert older.table(before, [*today, new]).splitlines()[2:] == [
        "| LeNet-5 | gpfq | 29,730 → 26,757 (0.034), 17,678 → 15,910 (0.057), "
        "10,511 → 9,460 (0.095) | 0.900 |"
    ], "between .02 and .16, which both reach; a method that is new has no line"
