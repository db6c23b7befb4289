"""Commands about where studies stand, stored or only asked for: list, status."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from moeash.cli.show import (
    JsonOption,
    StorageOption,
    StudyArgument,
    bytes_text,
    clock,
    percent,
    print_json,
    say,
    table,
)
from moeash.console.durations import duration_text

if TYPE_CHECKING:
    from moeash.study.storage.base import Storage
    from moeash.study.storage.team.launch import LaunchRecord
    from moeash.study.storage.team.launches import Launches

N_LINES = 5
"""Events and failures shown; the document has more."""


def list_studies(storage: StorageOption = None, json_: JsonOption = False) -> None:
    """List the studies, those that wait to be stored too."""
    from moeash.launch.standing import standing
    from moeash.study.opening import open_storage

    store = open_storage(storage, create=False)
    launches = _launches(store).newest()
    rows: list[dict[str, Any]] = []
    for summary in store.summaries():
        facts = summary.record.facts
        word, reason = standing(summary, launches.pop(facts.name, None))
        rows.append(
            {
                "name": facts.name,
                "status": word,
                "ending": summary.record.ending,
                "reason": reason or None,
                "evaluations": summary.n(),
                **{name: summary.n(status=name) for name in ("complete", "stopped", "failed")},
                "generations": summary.n_generations,
                "hypervolume": summary.hypervolume,
                "smallest_bytes": summary.smallest_bytes,
                "metric_name": facts.metric_name,
                "baseline": facts.baseline,
                "original_bytes": facts.original_bytes,
                "created_at": summary.record.created_at,
                "updated_at": summary.record.updated_at,
            }
        )
    rows += [_asked_for(launch) for _, launch in sorted(launches.items())]
    if json_:
        print_json(rows)
        return
    table(
        f"studies in {store.url}",
        [
            ("name", "left"),
            ("status", "left"),
            ("evaluations", "right"),
            ("smallest", "right"),
            ("metric", "left"),
            ("float", "right"),
            ("updated (UTC)", "left"),
        ],
        [
            [
                row["name"],
                row["status"],
                f"{row['evaluations']:,}",
                "" if row["smallest_bytes"] is None else bytes_text(row["smallest_bytes"]),
                row["metric_name"] or "",
                "" if row["baseline"] is None else f"{row['baseline']:.4f}",
                clock(row["updated_at"]),
            ]
            for row in rows
        ],
    )


def status(study: StudyArgument, storage: StorageOption = None, json_: JsonOption = False) -> None:
    """Show where a study stands."""
    from moeash.errors import StudyNotFoundError
    from moeash.launch.standing import standing
    from moeash.study.opening import open_storage, open_study
    from moeash.study.summary import summary_of

    store = open_storage(storage, create=False)
    launch = _launches(store).newest([study]).get(study)
    try:
        opened = open_study(study, store)
    except StudyNotFoundError:
        if launch is None:
            raise
        row = _asked_for(launch)
        if json_:
            print_json(row)
        else:
            say(f"study {study}: {row['status']}" + (f"; {row['reason']}" if row["reason"] else ""))
        return
    summary = dict(summary_of(opened))
    for stored in store.summaries([study]):
        word, reason = standing(stored, launch)
        summary |= {"status": word, "reason": reason or summary["reason"]}
    if json_:
        print_json(summary)
        return
    for line in status_lines(summary, opened.facts.baseline_text):
        say(line)


def _launches(store: "Storage") -> "Launches":
    """Return the launches of a storage, as they stand now."""
    from moeash.errors import StorageError
    from moeash.launch.process import Processes
    from moeash.study.storage.sql import SqlStorage

    assert isinstance(store, SqlStorage)  # opened by its place
    processes = Processes(store.database)
    with suppress(StorageError):  # who may only read is told what is stored
        processes.look_after()
    return processes.launches


def _asked_for(launch: "LaunchRecord") -> dict[str, Any]:
    """Return what a list says of a study that is not stored, or not yet."""
    from moeash.launch.standing import standing

    word, reason = standing(None, launch)
    nothing = ("ending", "hypervolume", "smallest_bytes", "metric_name", "baseline")
    return {
        "name": launch.study,
        "status": word,
        "reason": reason or None,
        **dict.fromkeys(("evaluations", "complete", "stopped", "failed", "generations"), 0),
        **dict.fromkeys((*nothing, "original_bytes")),
        "created_at": launch.requested_at,
        "updated_at": launch.ended_at or launch.started_at or launch.requested_at,
    }


def status_lines(summary: Mapping[str, Any], baseline: str) -> Iterator[str]:
    """Yield the lines of :func:`moeash.study.summary.summary_of`.

    Args:
        summary: the document.
        baseline: the float network's metric in words.
    """
    from moeash.study.course.budget import ENDINGS

    ending, reason = summary["ending"], summary["reason"]
    line = f"study {summary['name']}: {summary['status']}"
    if summary["status"] == "finished" and ending:
        line += f", {ENDINGS[ending]}"
    yield line + (f"; {reason}" if reason else "")
    yield (
        f"{summary['n_shared']:,} weights shared, {summary['n_kept']:,} kept; "
        f"{bytes_text(summary['original_bytes'])} as float32; "
        f"float {summary['metric_name']} {baseline}"
    )
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("complete", "stopped", "failed"))
    n_generations, n = summary["generations"], summary["evaluations"]
    yield (
        f"{n_generations:,} generation{'s'[: n_generations != 1]}, "
        f"{n:,} evaluation{'s'[: n != 1]}: {counts}"
    )
    full = summary["forward_batches_of_full_evaluations"]
    if full:
        batches = summary["forward_batches"]
        yield f"forward batches: {batches:,} of {full:,} ({percent(batches / full)})"
    if summary["hypervolume"] is not None:
        smallest = summary["smallest_bytes"]
        size = "" if smallest is None else f", smallest {bytes_text(smallest)}"
        yield f"hypervolume {summary['hypervolume']:.6f}, front of {summary['front']:,}{size}"
    for phase in summary["phases"]:
        if phase["state"] == "running":
            yield _running(phase)
    if summary["status"] == "running":
        doing = summary["doing"]
        now = "" if doing is None else f"; {doing['text']} since {clock(doing['at'])}"
        yield f"workers: {summary['workers']}{now}"
    for event in summary["events"][-N_LINES:]:
        yield f"{clock(event['at'])} {event['text']}"
    for failure in summary["errors"][:N_LINES]:
        yield f"failed: {failure['id']} {failure['text']}: {failure['error']}"
    if summary["retriable"]:
        yield (
            f"{summary['retriable']:,} failed through no fault of their own; "
            "`moeash run SPEC --retry-failed` tries them again"
        )


def _running(phase: Mapping[str, Any]) -> str:
    """Return what a running phase has done, how fast it is and how long it goes on."""
    from moeash.study.events import PHASES

    total, done = phase["total"], phase["done"]
    line = PHASES[phase["phase"]]
    if phase["phase"] == "merge" and total:
        line += f" solution {min(done + 1, total):,} of {total:,}"
    elif total:
        line += f" {done:,} of {total:,}"
    else:
        line += f": {done:,} evaluations"
    if phase["per_minute"] is not None:
        line += f", {phase['per_minute']:.1f} evaluations a minute"
    if phase["left_s"] is not None:
        line += f", ends in about {duration_text(phase['left_s'])}"
    return line
