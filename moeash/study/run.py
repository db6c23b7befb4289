"""Run a study, or continue it: the two are the same.

Resume is replay. The course starts from generation 1 with its seed and is told the stored values,
so it proposes the same recipes again, answered from storage, until it passes the point where the
last process ended. Nothing is evaluated twice and there is no pickled optimiser state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from moeash.backends.base import Backend
from moeash.errors import BackendError, StorageError
from moeash.evaluation.task import Task
from moeash.names import contained
from moeash.study.admission import admit, stored_study
from moeash.study.artifacts import Build
from moeash.study.consent import give_spec
from moeash.study.course.course import Course
from moeash.study.course.journal import Journal
from moeash.study.course.ledger import Ledger
from moeash.study.events import Ended, Listen, Opened, ignore
from moeash.study.plan import Plan
from moeash.study.storage.base import Storage
from moeash.study.storage.records import StoredStatus, StudyRecord
from moeash.study.study import Study

MakeBackend = Callable[[Task], Backend]


def run(
    plan: Plan,
    storage: Storage,
    make_backend: MakeBackend,
    listen: Listen = ignore,
    *,
    retry_failed: bool = False,
    accept_baseline: bool = False,
    finished: Callable[[Study, Build], None] | None = None,
) -> Study:
    """Run a study to its end, continuing it when it is stored already.

    Args:
        plan: the study.
        storage: where it is remembered.
        make_backend: makes where it is evaluated.
        listen: receives the events.
        retry_failed: evaluate again what has failed through no fault of its own.
        accept_baseline: continue although the float network is another function than it was.
        finished: called with the finished study and what builds its solutions, while the backend
            that has prepared everything is still there.

    Raises:
        StudyLockedError: another process works on it.
        StudyExistsError: the name is taken by a different spec, network or evaluation set.
        StorageError: the database refused a write; everything stored before is safe.
    """
    journal = Journal(storage, listen)
    with storage.lock(plan.spec.name):
        stored = stored_study(storage, plan)
        task = plan.task_for(stored, storage)
        backend = make_backend(task)
        try:
            baseline = backend.open(journal.note, journal.progress)
            record = admit(
                storage,
                plan,
                task,
                stored,
                baseline,
                backend,
                journal,
                accept_baseline=accept_baseline,
            )
            journal.begin(record.id)
            with _ended(storage, record, journal), contained():
                for note in baseline.notes:
                    journal.note(note)
                build = _course(plan, storage, record, backend, journal, retry_failed)
            study = Study(storage, plan.spec.name)
            give_spec(study, plan.spec)
            if finished is not None:
                finished(study, build)
        finally:
            backend.close()
    return study


def _course(
    plan: Plan,
    storage: Storage,
    record: StudyRecord,
    backend: Backend,
    journal: Journal,
    retry_failed: bool,
) -> Build:
    """Run what is left of a study; return what builds its solutions."""
    if retry_failed:
        n = storage.forget_retriable(record.id)
        journal.note(f"{n} failed evaluation{'s'[: n != 1]} will be tried again")
    ledger = Ledger(storage, record.id, journal)
    journal.say(Opened(record.facts, len(ledger.known), plan.spec.budget))
    artifact = partial(storage.artifact, record.id)
    course = Course(plan, record.facts, backend, ledger, journal, artifact=artifact)
    storage.set_status(record.id, "finished", ending=course.run())
    journal.say(Ended("finished"))
    return course.build


@contextmanager
def _ended(storage: Storage, record: StudyRecord, journal: Journal) -> Iterator[None]:
    """Record that a study was interrupted, or failed, and why; the error itself goes on."""
    try:
        yield
    except BaseException as error:
        # A signal's handler, or the place where it ran is gone: nothing is wrong with the study.
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit | BackendError)
        status: StoredStatus = "interrupted" if interrupted else "failed"
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        if isinstance(error, KeyboardInterrupt):
            reason = f"stopped by {str(error) or 'Ctrl-C'}"
        # When it is the database that fails, the first error is the one to report.
        with suppress(StorageError):
            storage.set_status(record.id, status, reason=reason)
            journal.say(Ended(status, reason))
        raise
