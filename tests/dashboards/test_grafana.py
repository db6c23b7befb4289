"""The dashboard shows what the service measures: all of it, and nothing that does not exist."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from moeash.evaluation.outcome import Status
from moeash.service.metrics import Metrics
from moeash.study.events import WorkersChanged
from moeash.study.storage.records import GenerationRecord, Stage, StudyStatus
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.counting import Counting
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing
from tests.contracts.storage import COMPLETE, add, facts

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; pip install pyyaml")

GRAFANA = Path(__file__).parents[2] / "dashboards" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "moeash.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
COMPOSE = yaml.safe_load((GRAFANA.parents[1] / "docker" / "compose.yaml").read_text())

OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
OF_PROMETHEUS = {"up": {"job", "instance"}}
NAME = re.compile(r"\b(?:moeash_\w+|up(?=\{))")


def expressions():
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


@pytest.fixture
def measured(tmp_path):
    """Labels of every number in the service's text, by its name."""
    storage = SqlStorage(tmp_path / "a.db")
    study = storage.create_study(facts(name="a"))
    storage.add_events(study.id, [WorkersChanged(3)])
    add(storage, study, 1, outcome=COMPLETE)
    storage.put_generation(study.id, GenerationRecord(1, 0.25, 4, 1, 9, 1.0))
    launches = Launches(storage.database)
    metrics = Metrics(
        Listing(storage.database),
        Counting(storage.database),
        lambda names: {s.record.facts.name: s for s in storage.summaries(names)},
    )
    export = launches.add("export", "a", {}, "x")
    launches.claim(export.id, "process", {})
    launches.end(export.id, 0, None)
    metrics.observe("GET", "/x", 200, 0.1)
    with storage.lock("a"):
        text = metrics.text().decode()
    storage.close()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def family(name):
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def test_every_number_of_the_dashboard_is_one_of_the_service(measured):
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(shown) > 10 and shown - set(measured) <= set(OF_PROMETHEUS)


def test_every_number_of_the_service_is_on_the_dashboard(measured):
    shown = {family(name) for expression in expressions() for name in NAME.findall(expression)}
    assert {family(name) for name in measured} <= shown


@pytest.mark.slow
def test_numbers_are_asked_for_by_labels_that_they_have(measured):
    known = measured | OF_PROMETHEUS
    for expression in expressions():
        names = NAME.findall(expression)
        for name, selector in re.findall(r"\b(moeash_\w+|up)\{([^}]*)\}", expression):
            asked = re.findall(r"(\w+)\s*[=!]~?\"", selector)
            assert asked and set(asked) <= known[name], expression
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            for name in names:
                assert set(grouped.split(", ")) <= known[name], expression


def test_panels_of_studies_follow_the_choice_of_studies(measured):
    for expression in expressions():
        for name in NAME.findall(expression):
            if "study" in measured.get(name, ()) and "label_values" not in expression:
                chosen = expression.count(f'{name}{{study=~"$study"')
                assert chosen == len(re.findall(rf"\b{name}\b", expression)), expression


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Evaluations a minute, by status", get_args(Status)),
        ("Evaluations a minute, by stage", get_args(Stage)),
    ],
)
def test_every_kind_of_evaluation_has_a_colour(title, values):
    overrides = PANELS[title]["fieldConfig"]["overrides"]
    assert {override["matcher"]["options"] for override in overrides} == set(values)


def test_every_status_of_a_study_has_a_colour():
    text = json.dumps(PANELS["Studies"]["fieldConfig"]["overrides"])
    assert set(re.findall(r'"text": "(\w+)"', text)) == set(get_args(StudyStatus))


def test_colours_are_told_apart_by_everybody():
    colours = re.findall(r'"#[0-9A-Fa-f]{6}"', json.dumps(DASHBOARD))
    assert {colour.strip('"') for colour in colours} <= OKABE_ITO


def test_panels_say_what_they_show_have_a_unit_and_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_the_dashboard_and_prometheus_where_compose_puts_them():
    grafana = COMPOSE["services"]["grafana"]
    (mount,) = [v for v in grafana["volumes"] if v.endswith(":/etc/moeash:ro")]
    folder = (GRAFANA.parents[1] / "docker" / mount.partition(":")[0]).resolve()
    assert folder == GRAFANA
    environment = grafana["environment"]
    assert environment["GF_PATHS_PROVISIONING"] == "/etc/moeash/provisioning"
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "moeash.yaml").read_text()
    )["providers"]
    shown = provider["options"]["path"].replace("/etc/moeash", str(GRAFANA))
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert [Path(home.replace("/etc/moeash", str(GRAFANA)))] == list(Path(shown).glob("*.json"))
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    (variable,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "datasource"]
    assert source["uid"] == variable["current"]["value"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]
    uids = re.findall(r'"type": "prometheus", "uid": "([^"]*)"', json.dumps(DASHBOARD))
    assert set(uids) == {"${datasource}"}
