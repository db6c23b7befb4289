"""The document of a study's status, as lines for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from moeash.cli.show import bytes_text, clock, percent
from moeash.console.durations import duration_text

N_LINES = 5
"""Events and failures shown; the document has more."""


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
