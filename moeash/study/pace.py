"""How fast a running study is, and how long it has left, from what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from moeash.study.course.options import BudgetOptions
from moeash.study.storage.records import EvaluationRecord, GenerationRecord

RECENT_EVALUATIONS = 50
RECENT_GENERATIONS = 3


@dataclass(frozen=True)
class Pace:
    """A study's pace.

    Attributes:
        per_minute: evaluations a minute, over the last ones; None before there are two.
        search_left_s: until the search reaches its budget at this pace; None when its rules do not
            tell. Refining and merging are not in it: how long they take is not known before.
    """

    per_minute: float | None
    search_left_s: float | None


def pace_of(
    budget: BudgetOptions,
    evaluations: Sequence[EvaluationRecord],
    generations: Sequence[GenerationRecord],
) -> Pace:
    """Return the pace of a study.

    Args:
        budget: of the study.
        evaluations: all of them.
        generations: all of them, by index.
    """
    times = sorted(datetime.fromisoformat(r.created_at).timestamp() for r in evaluations)
    recent = times[-RECENT_EVALUATIONS:]
    span = recent[-1] - recent[0] if len(recent) > 1 else 0.0
    per_minute = 60 * (len(recent) - 1) / span if span > 0 else None
    left = []
    if budget.generations is not None and generations:
        last = generations[-RECENT_GENERATIONS:]
        each = sum(g.elapsed_s for g in last) / len(last)
        left.append(each * max(0, budget.generations - generations[-1].index))
    if budget.evaluations is not None and per_minute is not None:
        n_searched = sum(r.stage == "search" for r in evaluations)
        left.append(60 * max(0, budget.evaluations - n_searched) / per_minute)
    return Pace(per_minute, min(left, default=None))
