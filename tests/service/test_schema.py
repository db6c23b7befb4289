"""Every operation that the service describes, asked with what its description allows, and more.

Nothing is started: the queue has no room, so what is accepted only waits.
"""

import os

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from moeash.core.solutions.objectives import Sizes
from moeash.evaluation.outcome import Outcome
from moeash.study.events import Note
from moeash.study.spec.reading import spec_of_text
from moeash.study.storage.records import GenerationRecord
from tests.contracts.storage import FAILED, STOPPED, add, facts
from tests.service.matrix import operations
from tests.service.test_api import TOML
from tests.service.whole import whole_service

pytestmark = [
    pytest.mark.slow,
    # Of schemathesis and what it is made of, not of ours.
    pytest.mark.filterwarnings("default"),
]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = int(os.environ.get("MOEASH_EXAMPLES", "10"))
"""Requests of each operation and kind; more of them find more."""

MOST = 3000
"""Characters of a failure that are shown: some bodies have a million."""

ENDLESS = ("/events", "/log/stream")
KNOWN = {"name": "digits", "number": 1, "id": 1, "kind": "csv", "file": "digits.moeash"}
"""What is there: of what is made up, hardly anything is."""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with whole_service(tmp_path_factory.mktemp("service"), max_running=0) as running:
        running.context.queue.max_exports = 0
        storage = running.storage
        spec = spec_of_text(TOML).to_dict()
        study = storage.create_study(facts(spec=spec, baseline=0.9, original_bytes=4000))
        for number in range(1, 30):
            sizes = Sizes(100 * number, 9, 2.5)
            outcome = Outcome("complete", number / 40, number / 40, sizes, f"{number}", 1, 0.1)
            add(storage, study, number, outcome=outcome, generation=1 + number // 10)
        add(storage, study, 30, outcome=STOPPED)
        add(storage, study, 31, outcome=FAILED)
        storage.put_generation(study.id, GenerationRecord(1, 0.25, 3, 2, 5, 0.5))
        storage.add_events(study.id, [Note("hello")])
        storage.set_status(study.id, "finished", ending="generations")
        with running.client("operator") as client:
            assert client.post("/studies/digits/exports", json={"id": 1}).status_code == 202
        yield running


@pytest.fixture(scope="module")
def schema(service):
    found = schemathesis.openapi.from_url(f"{service.url}/api/v1/openapi.json")
    found.config.generation.update(with_security_parameters=False)
    found.config.checks.negative_data_rejection.expected_statuses = ["4XX"]
    return found


def bearer(service):
    """A new one each time: what is asked may revoke any."""
    return {"Authorization": f"Bearer {service.context.auth.tokens.create('admin')[1]}"}


def ask(service, case, known):
    """Ask and check, as if a study of the parameters' names were there if ``known``."""
    for name in case.path_parameters or {}:
        if known and name in KNOWN:
            case.path_parameters[name] = KNOWN[name]
    headers = bearer(service)
    checks = [check for check in CHECKS if not known or check is not negative_data_rejection]
    if not case.operation.path.endswith(ENDLESS):
        case.call_and_validate(checks=checks, headers=headers, timeout=60)
        return
    request = case.as_transport_kwargs(headers=headers)
    with httpx.stream(
        request["method"],
        request["url"],
        params=request.get("params"),
        headers=request["headers"],
        timeout=60,
    ) as answer:
        told = answer.headers["content-type"]
        assert (answer.status_code, told) in [
            (200, "text/event-stream; charset=utf-8"),
            *((status, "application/problem+json") for status in (400, 404, 422)),
        ]


def asked(service, operation, mode):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="MOEASH_EXAMPLES" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def run(case, known):
        ask(service, case, known)

    run()


def test_every_operation_names_its_errors_one_by_one(schema):
    for item in schema.raw_schema["paths"].values():
        for operation in item.values():
            told = set(operation["responses"])
            assert told.isdisjoint({"default", "4XX", "5XX"}) and "421" in told
            assert {"401", "403"} <= told or not operation.get("security")


def test_a_generated_client_has_a_plain_name_for_every_operation(schema):
    found = [o for item in schema.raw_schema["paths"].values() for o in item.values()]
    names = [operation["operationId"] for operation in found]
    assert len(set(names)) == len(names)
    assert {"list_studies", "create_study", "show_export"} <= set(names)
    assert [name for name in names if "api" in name or not name.isidentifier()] == []


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_answers_as_it_says(service, schema, mode):
    told = {(m, p) for m, p in operations(schema.raw_schema)}
    seen, wrong = set(), []
    found = [operation.ok() for operation in schema.get_all_operations()]
    for operation in sorted(found, key=lambda o: o.method.upper() == "DELETE"):
        seen.add((operation.method.upper(), operation.path))
        try:
            asked(service, operation, mode)
        except Unsatisfiable:
            assert mode == schemathesis.GenerationMode.NEGATIVE, "nothing can be wrong there"
        except (Exception, FailureGroup) as error:
            wrong.append(f"{operation.label}: {type(error).__name__}: {error}"[:MOST])
    assert wrong == [], "\n\n".join(wrong)
    assert seen == told
    assert service.context.queue.processes.children == {}, "nothing was started"
