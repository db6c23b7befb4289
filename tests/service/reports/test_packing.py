"""A report holds all its modules, asks nobody, and its data cannot get out."""

import base64
import json
import re

import pytest

from moeash.service.reports.packing import report_html
from moeash.service.web import web_folder


@pytest.fixture(scope="module")
def document():
    data = {"study": {"notes": "</script><script>alert(1)</script> @title@"}}
    return report_html(data, title="<b>&")


def modules_of(document):
    text = re.search(r'<script type="importmap">(.*?)</script>', document)[1]
    return {
        name: base64.b64decode(url.split(",", 1)[1]).decode()
        for name, url in json.loads(text)["imports"].items()
    }


def test_every_import_of_a_module_is_in_the_map(document):
    modules = modules_of(document)
    assert "moeash/report.js" in modules
    for name, text in modules.items():
        assert not re.search(r"(?:from|import\()\s*'\.", text), name
        for target in re.findall(r"from\s*'([^']+)'", text):
            assert target in modules, (name, target)


def test_a_report_never_asks_a_server(document):
    for name, text in modules_of(document).items():
        assert not re.search(r"\bfetch\(|EventSource|/api/v1", text), name
    assert "default-src 'none'" in document


def test_text_in_the_data_cannot_end_its_element(document):
    held = re.search(r'<script type="application/json" id="report">(.*?)</script>', document)[1]
    notes = json.loads(held)["study"]["notes"]
    assert notes == "</script><script>alert(1)</script> @title@"
    assert "<title>&lt;b>&amp;</title>" in document


def test_the_styles_are_those_of_the_page(document):
    assert (web_folder() / "style/tokens.css").read_text("utf-8") in document
