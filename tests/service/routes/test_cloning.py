"""Studies like others, with changes, over HTTP."""

import pytest

from moeash.study.spec.reading import spec_of_text
from tests.contracts.storage import facts
from tests.service.test_api import SPEC
from tests.service.whole import whole_service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with whole_service(tmp_path_factory.mktemp("service")) as running:
        processes = running.context.queue.processes
        processes._command = lambda record, folder: ["true"]
        running.storage.create_study(facts(spec=SPEC))
        yield running


@pytest.fixture(scope="module")
def operator(service):
    with service.client("operator") as client:
        yield client


def test_a_study_is_begun_like_another_one_with_changes(service, operator):
    changes = ["search.population=7", "output={folder='/etc', max_drop=0.1}", "seed=3"]
    answer = operator.post("/studies/digits/clone", json={"name": "again", "changes": changes})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == "/api/v1/studies/again"
    assert answer.json()["name"] == "again"
    launch = service.context.queue.launches.newest(["again"])["again"]
    spec = spec_of_text(launch.request["spec"], launch.request["settings"])
    assert (spec.name, spec.search.population, spec.seed) == ("again", 7, 3)
    assert spec.evaluation.max_drop == 0.4  # as it was there
    assert spec.output.folder == str(service.context.roots.outputs / "again")


@pytest.mark.parametrize(
    ("name", "asked", "status", "text"),
    [
        ("digits", {"name": "x", "changes": ["search.populaton=7"]}, 422, "population"),
        ("digits", {"name": "x", "changes": ["seed"]}, 422, "seed"),
        ("digits", {"name": "../x"}, 422, "name"),
        ("digits", {"name": "x", "changes": ["network.source=os:system"]}, 422, "no code of"),
        ("digits", {"name": "digits", "changes": ["seed=1"]}, 409, "another name"),
        ("digits", {}, 422, "name"),
        ("none", {"name": "x"}, 404, "no study"),
    ],
    ids=str,
)
def test_what_is_no_study_is_not_begun(service, operator, name, asked, status, text):
    answer = operator.post(f"/studies/{name}/clone", json=asked)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert service.context.queue.launches.newest(["x"]) == {}
