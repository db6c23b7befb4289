"""Where a study stands: what its launch says, and what its storage says.

Lists choose by the same words in SQL; see :mod:`moeash.study.storage.team.standings`.
"""

from moeash.launch.base import State
from moeash.study.storage.records import StudySummary
from moeash.study.storage.team.launch import INTERRUPTED, LaunchRecord
from moeash.study.storage.team.standings import Standing


def standing(summary: StudySummary | None, launch: LaunchRecord | None) -> tuple[Standing, str]:
    """Return where a study stands in one word, and why in one line.

    Args:
        summary: of the study as it is stored; None before it is.
        launch: its newest run; None when it was never launched.
    """
    if launch is not None and launch.state == "queued":
        return "queued", "it waits for its turn"
    if launch is not None and launch.state == "running":
        return "running", ""
    said = "" if launch is None else (launch.message or "").removeprefix("moeash: ")
    said = said.removeprefix("interrupted; ")  # the word is said beside it
    if summary is None:
        return _never_stored(launch), said
    if summary.status == "running":
        return "running", ""
    reason = summary.record.reason or ""
    # A launch that ended after the study last wrote did not get as far as writing.
    is_later = launch is not None and (launch.ended_at or "") >= summary.record.updated_at
    if launch is None or not is_later or State.of(launch).name != "failed":
        return summary.status, reason
    if summary.status == "interrupted":
        return _how_it_failed(launch), said  # to continue it
    return summary.status, said or reason


def _never_stored(launch: LaunchRecord | None) -> Standing:
    state = None if launch is None else State.of(launch)
    if launch is None or state is None:
        return "crashed"
    if state.name == "succeeded":
        return "finished"
    if state.name == "stopped":
        return "interrupted"
    return _how_it_failed(launch)


def _how_it_failed(launch: LaunchRecord) -> Standing:
    """Tell a process that said so itself from one that is gone without a word, or by a signal."""
    said_so = launch.exit_code is not None and launch.exit_code <= INTERRUPTED
    return "failed" if said_so else "crashed"
