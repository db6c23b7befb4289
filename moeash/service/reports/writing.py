"""A study as one HTML file, drawn by the page's own parts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moeash import __version__
from moeash.files import replacing
from moeash.service.reports.packing import report_html
from moeash.service.views.charts import Charts
from moeash.service.views.studies import Studies
from moeash.study.opening import open_storage
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.labels import Labels
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing

COLUMNS, ROWS = 180, 110
"""Columns and rows of the grid that points are thinned on, as in the page."""


def write_report(name: str, to: Path, *, storage: str | None = None) -> None:
    """Write a study as one HTML file.

    Args:
        name: of a stored study.
        to: the file.
        storage: as :func:`moeash.study.opening.open_storage`.

    Raises:
        StudyNotFoundError: there is no such study.
        ExportError: the file cannot be written; an existing one is kept.
    """
    store = open_storage(storage, create=False)
    assert isinstance(store, SqlStorage)
    try:
        database = store.database
        listing = Listing(database)
        charts = Charts(listing)
        studies = Studies(store, listing, Labels(database), Launches(database), charts)
        text = report_html(_data(studies, charts, name), title=name)
    finally:
        store.close()
    with replacing(to) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _data(studies: Studies, charts: Charts, name: str) -> dict[str, Any]:
    study = studies.study(name)
    chart = charts.of(study.record)
    return {
        "study": studies.detail(name).model_dump(mode="json"),
        "points": chart.document(chart.thinned(COLUMNS, ROWS)),
        "front": [solution.model_dump(mode="json") for solution in studies.front(study, None)],
        "generations": [vars(generation) for generation in study.generations()],
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
