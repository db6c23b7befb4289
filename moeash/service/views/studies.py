"""Studies as documents, put together from storage, launches and labels."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from moeash.core.histogram import Histogram
from moeash.core.solutions.candidate import Candidate
from moeash.errors import NothingMeetsError, SpecError, StudyNotFoundError
from moeash.launch.standing import standing
from moeash.searches.options import SearchOptions
from moeash.service.views.charts import Charts
from moeash.service.views.documents import (
    PickDocument,
    SolutionDetail,
    SolutionDocument,
    StudyDetail,
    StudyItem,
    StudyPage,
    solution_document,
)
from moeash.service.views.resting import Resting
from moeash.service.views.solutions import Solutions
from moeash.service.views.toml import toml_of
from moeash.study.course.options import GENERATIONS
from moeash.study.solution import pick
from moeash.study.spec.output import Pick
from moeash.study.spec.reading import plain_of_text
from moeash.study.storage.records import StudySummary
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.labels import Labels, StudyLabels
from moeash.study.storage.team.launch import LaunchRecord
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing, StudyOrder, Wanted
from moeash.study.study import Study
from moeash.study.summary import in_words, summary_of

SPARKLINE = 40
"""Values of a sparkline."""

MOST_NOTICES = 20

MOST_COUNTED = 1000
"""Studies whose counts are remembered."""


@dataclass(frozen=True)
class _Counted:
    """What a list says of a study, and what was stored of it before that was read."""

    stamp: tuple[Any, ...]
    summary: StudySummary
    course: tuple[float, ...]


@dataclass(frozen=True)
class _Found:
    """A study in a list, and what that was made of; without a summary it is not stored yet."""

    item: StudyItem
    launch: LaunchRecord | None
    summary: StudySummary | None = None
    labels: StudyLabels | None = None


class Studies:
    """The studies of one storage, stored or only asked for."""

    def __init__(
        self,
        storage: SqlStorage,
        listing: Listing,
        labels: Labels,
        launches: Launches,
        charts: Charts,
    ) -> None:
        self.storage = storage
        self.listing = listing
        self.labels = labels
        self.launches = launches
        self.charts = charts
        self._solutions = Solutions(storage)
        self._counted: dict[str, _Counted] = {}
        self._resting = Resting(storage.database)

    # ------------------------------------------------------------------ lists

    def page(self, wanted: Wanted, order: StudyOrder, after: str | None, limit: int) -> StudyPage:
        """Return a page of studies."""

        def make() -> tuple[StudyPage, Mapping[str, str | None]]:
            database = self.storage.database
            with database.kept_open():
                page = self.listing.studies(wanted, order=order, after=after, limit=limit)
                holders = database.holders((*page.names, *page.claimed))  # before what follows
                items = self.items(page.names)
            found = [items[name] for name in page.names if name in items]
            return StudyPage(items=found, next=page.next, total=page.total), holders

        return self._resting.page((wanted, order, after, limit), make)

    def items(self, names: Sequence[str]) -> Mapping[str, StudyItem]:
        """Return studies as items, in a handful of queries however many there are."""
        return {name: found.item for name, found in self._find(names).items()}

    def _find(self, names: Sequence[str]) -> dict[str, _Found]:
        counted = self._count(names)
        summaries = {name: each.summary for name, each in counted.items()}
        ids = {s.record.id: s for s in summaries.values()}
        labels = self.labels.of(ids)
        running = [id_ for id_, s in ids.items() if s.status == "running"]
        workers = self.listing.newest(running, "workers")
        phases = self.listing.newest(running, "phase_started")
        launches = self.launches.newest(names)
        waits = any(launch.state == "queued" for launch in launches.values())
        positions = self.launches.positions() if waits else {}
        found = {}
        for name in names:
            launch = launches.get(name)
            place = None if launch is None else positions.get(launch.id)
            if name in summaries:
                summary = summaries[name]
                id_ = summary.record.id
                said = labels.get(id_, StudyLabels())
                item = StudyItem(
                    **_stored(summary, launch, said),
                    sparkline=list(counted[name].course),
                    workers=workers.get(id_, {}).get("workers", 0),
                    phase=phases.get(id_, {}).get("phase"),
                    queue_position=place,
                )
                found[name] = _Found(item, launch, summary, said)
            elif launch is not None:
                item = StudyItem(**_launched(launch), queue_position=place)
                found[name] = _Found(item, launch)
        return found

    def summaries(self, names: Sequence[str]) -> Mapping[str, StudySummary]:
        """Return the counts of studies; those of a study that rests are not read again."""
        return {name: counted.summary for name, counted in self._count(names).items()}

    def _count(self, names: Sequence[str]) -> dict[str, _Counted]:
        holders = self.storage.database.holders(names)  # before anything is read, as storage does
        stamps = self.listing.stamps(names)
        known = {name: self._counted.get(name) for name in stamps}
        found = {
            name: replace(counted, summary=replace(counted.summary, holder=holders[name]))
            for name, counted in known.items()
            if counted is not None and counted.stamp == stamps[name]
        }
        new = [name for name in stamps if name not in found]
        if new:
            summaries = {s.record.facts.name: s for s in self.storage.summaries(new)}
            lengths = {s.record.id: s.n_generations for s in summaries.values()}
            courses = self.listing.hypervolumes(lengths, SPARKLINE)
            for name, summary in summaries.items():
                course = tuple(courses.get(summary.record.id, ()))
                found[name] = _Counted(stamps[name], summary, course)
                # What was stored between stamp and count is counted again next time.
                self._counted[name] = found[name]
        for name in list(self._counted)[:-MOST_COUNTED]:
            self._counted.pop(name, None)
        return found

    def item(self, name: str) -> StudyItem:
        """Return one study as a list shows it.

        Raises:
            StudyNotFoundError: there is none of that name, stored or asked for.
        """
        return self._find_one(name).item

    def _find_one(self, name: str) -> _Found:
        found = self._find([name]).get(name)
        if found is None:
            self.storage.study(name)  # says which names are near
            raise StudyNotFoundError(f"no study {name!r} any more")
        return found

    # ------------------------------------------------------------------ one study

    def study(self, name: str) -> Study:
        """Return a stored study.

        Raises:
            StudyNotFoundError: there is none of that name, or it has only been asked for.
        """
        study = self.stored(name)
        if study is None:
            launch = self.launches.newest([name]).get(name)
            if launch is None or not launch.ended:
                raise StudyNotFoundError(
                    f"study {name!r} is not stored yet: its process has still to load network and "
                    "data; see its log"
                )
            _, reason = standing(None, launch)
            raise StudyNotFoundError(
                f"study {name!r} was never stored{reason and ': '}{reason}; start it again, or "
                "delete it"
            )
        return study

    def stored(self, name: str) -> Study | None:
        """Return a study; None when it was asked for and is not stored yet.

        Raises:
            StudyNotFoundError: nobody has asked for a study of that name.
        """
        try:
            return Study(self.storage, name)
        except StudyNotFoundError:
            if name in self.launches.newest([name]):
                return None
            raise

    def detail(self, name: str) -> StudyDetail:
        """Return everything about one study but its evaluations."""
        with self.storage.database.kept_open():
            return self._detail(self._find_one(name))

    def _detail(self, found: _Found) -> StudyDetail:
        name = found.item.name
        item, said = found.item.model_dump(), found.labels or StudyLabels()
        if found.summary is None:
            request = {} if found.launch is None else found.launch.request
            return StudyDetail(**item, toml=str(request.get("spec", "")), spec={})
        study = self.study(name)
        summary = summary_of(
            study,
            counted=found.summary,
            n_front=len(self.charts.of(study.record).front()),
        )
        facts, spec = study.facts, dict(study.facts.spec)
        return StudyDetail(
            **item
            | {"reason": item["reason"] or summary["reason"], "phase": summary["phase"]}
            | {"workers": summary["workers"]},
            toml=toml_of(spec),
            spec=spec,
            notes=said.notes,
            pins=list(said.pins),
            front_size=summary["front"],
            ending=summary["ending"],
            phases=summary["phases"],
            left_s=summary["phase_left_s"],
            errors=summary["errors"],
            retriable=summary["retriable"],
            remeasured_baseline=facts.remeasured_baseline,
            n_shared=facts.n_shared,
            n_kept=facts.n_kept,
            space=[dict(variable) for variable in facts.space or ()],
            notices=self._notices(study.record.id),
            objectives=list(facts.objectives),
            variables=self._variables(study),
            environment=dict(facts.environment),
            evaluations_per_minute=summary["evaluations_per_minute"],
        )

    def label(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change what is said of a study: fields of :class:`StudyLabels`."""
        id_ = self.study(name).record.id
        said = self.labels.of([id_]).get(id_, StudyLabels())
        self.labels.put(id_, replace(said, **changes))

    # ------------------------------------------------------------------ solutions

    def front(self, study: Study, generation: int | None = None) -> list[SolutionDocument]:
        """Return the front as documents, smallest file first."""
        numbers = self.charts.of(study.record).front(generation).tolist()
        return [shown.document for shown in self._solutions.of_front(study, numbers)]

    def solution(self, study: Study, number: int) -> SolutionDetail:
        """Return a solution and those it was made of.

        Raises:
            InputError: there is no complete evaluation of that number.
        """
        numbers = self.charts.of(study.record).front().tolist()
        solution = study.solution(number)
        parents: list[SolutionDocument] = []
        parent = solution.record.parent
        while parent is not None and len(parents) < 100:
            before = study.solution(parent)
            parents.append(solution_document(before, numbers))
            parent = before.record.parent
        known = study.facts.histogram
        return SolutionDetail(
            **solution_document(solution, numbers).model_dump(),
            parents=parents,
            histogram=None if known is None else Histogram.from_dict(known),
        )

    def pick(
        self, study: Study, how: Pick, max_bytes: int | None, max_drop: float | None
    ) -> PickDocument:
        """Return what a rule takes from the front, by the code that exports use."""
        numbers = self.charts.of(study.record).front().tolist()
        words = ["moeash", "export", study.name, "--pick", how]
        if max_bytes is not None:
            words += ["--max-bytes", str(max_bytes)]
        if max_drop is not None:
            words += ["--max-drop", repr(max_drop)]
        command = shlex.join([*words, "--to", f"{study.name}.moeash"])
        try:
            front = [shown.solution for shown in self._solutions.of_front(study, numbers)]
            chosen = pick(
                front,
                how,
                max_drop=max_drop,
                max_bytes=max_bytes,
                variables=study.facts.variables,
            )
        except NothingMeetsError as error:
            return PickDocument(solution=None, reason=str(error), command=command)
        document = solution_document(chosen, numbers)
        return PickDocument(solution=document, reason=None, command=command)

    def _notices(self, study_id: int) -> list[str]:
        """Return what the newest run noted, some of it before it opened."""
        runs = self.storage.events(study_id, kinds=("opened",), limit=2, newest=True)
        after = min(run.id for run in runs) if len(runs) == 2 else 0
        notes = self.storage.events(
            study_id, kinds=("note",), after=after, limit=MOST_NOTICES, newest=True
        )
        return list(dict.fromkeys(in_words(note) for note in sorted(notes, key=lambda it: it.id)))

    def _variables(self, study: Study) -> list[str]:
        first = self.storage.evaluations(study.record.id, limit=1)
        candidate: Candidate | None = first[0].candidate if first else None
        return [] if candidate is None else list(candidate.as_dict())


def _stored(
    summary: StudySummary, launch: LaunchRecord | None, labels: StudyLabels
) -> dict[str, Any]:
    record, facts = summary.record, summary.record.facts
    status, reason = standing(summary, launch)
    doing = record.activity if status == "running" else None
    return {
        "name": facts.name,
        "status": status,
        "reason": reason or None,
        **_of_spec(facts.spec),
        "metric_name": facts.metric_name,
        "baseline": facts.baseline,
        "original_bytes": facts.original_bytes,
        "evaluations": summary.n(),
        **{name: summary.n(status=name) for name in ("complete", "stopped", "failed")},
        "generations": summary.n_generations,
        "hypervolume": summary.hypervolume,
        "smallest_bytes": summary.smallest_bytes,
        "doing": None if doing is None else in_words(doing),
        "tags": list(labels.tags),
        "archived": labels.archived,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _launched(launch: LaunchRecord) -> dict[str, Any]:
    """Return what is known of a study that was asked for and is not stored."""
    status, reason = standing(None, launch)
    spec: Mapping[str, Any] = {}
    with suppress(SpecError):
        spec = plain_of_text(str(launch.request.get("spec", "")))
    return {
        "name": launch.study,
        "status": status,
        "reason": reason or None,
        **_of_spec(spec),
        "created_at": launch.requested_at,
        "updated_at": launch.ended_at or launch.started_at or launch.requested_at,
    }


def _of_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lists show of a spec in storage, which anybody may have written."""

    def value(table: str, key: str, default: Any = None) -> Any:
        found = spec.get(table)
        return found.get(key, default) if isinstance(found, Mapping) else default

    planned, generations = value("budget", "evaluations"), value("budget", "generations")
    if not spec.get("budget"):
        generations = GENERATIONS
    if planned is None and isinstance(generations, int):
        population = value("search", "population", SearchOptions().population)
        planned = generations * population if isinstance(population, int) else None
    return {
        "method": value("method", "name", "uniform"),
        "network": value("network", "source"),
        "dataset": value("data", "source"),
        "planned": planned if isinstance(planned, int) else None,
        "max_drop": value("evaluation", "max_drop"),
    }
