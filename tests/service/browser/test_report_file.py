"""The file of `moeash report`, opened as one opens an attachment."""

import pytest

from tests.service.browser.served import INK, browsing, part

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_report_shows_chart_and_table_from_a_file_without_a_request(
    served, chromium, finished, moeash, inspect, tmp_path
):
    file = tmp_path / "report.html"
    assert moeash("report", finished, "--to", file, "--storage", served.storage).code == 0
    asked = []
    with browsing(chromium, "file:/") as page:
        page.context.set_offline(True)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        front = served.api.get(f"/studies/{finished}/front").json()["items"]
        rows = page.locator("tbody tr[data-id]")
        rows.first.wait_for()
        ids = [int(row.get_attribute("data-id")) for row in rows.all()]
        assert ids == [point["id"] for point in front]
        page.wait_for_function(INK)
        part(page, "front-chart").focus()
        page.keyboard.press("End")
        page.keyboard.press(" ")
        assert f"{front[-1]['size_bytes']:,} bytes" in part(page, "chosen").inner_text()
        inspect(page, "report")
        assert asked == [file.as_uri()]
