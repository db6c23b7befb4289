"""The course of one study: search, then refine, merge, distill and tune what it has ended with."""

from collections.abc import Callable, Sequence
from functools import partial

from moeash.backends.base import Backend
from moeash.core.codebook import SharedWeights
from moeash.core.solutions.recipe import Recipe, Refine, Step
from moeash.evaluation.outcome import Archive
from moeash.searches.base import Search
from moeash.searches.enumerate import ExhaustiveSearch, RandomSearch
from moeash.searches.nsga2 import Nsga2Search
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space
from moeash.searches.steady_nsga2 import SteadyNsga2
from moeash.study.artifacts import start_of
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.extending import Extending, chosen
from moeash.study.course.generations import Generations
from moeash.study.course.journal import Journal
from moeash.study.course.ledger import Ledger
from moeash.study.course.merging import Merging
from moeash.study.course.options import Solutions
from moeash.study.course.phase import Phase
from moeash.study.course.pump import Pump
from moeash.study.course.standing import Standing
from moeash.study.course.steady_state import SteadyState
from moeash.study.course.widening import Widening
from moeash.study.events import PhaseEnded, PhaseStarted
from moeash.study.facts import StudyFacts, floor_of
from moeash.study.plan import Plan
from moeash.study.solution import Solution, cut_ends
from moeash.study.storage.records import Stage


class Course:
    """Runs the phases of a study, from generation 1 to the last solution tuned."""

    def __init__(
        self,
        plan: Plan,
        facts: StudyFacts,
        backend: Backend,
        ledger: Ledger,
        journal: Journal,
        *,
        artifact: Callable[[str], bytes],
    ) -> None:
        """Begin before the search.

        Args:
            plan: the study.
            facts: what is known of it.
            backend: where it is evaluated.
            ledger: what is stored of it.
            journal: hears of everything.
            artifact: returns the stored file of a fingerprint.
        """
        self._plan = plan
        self._facts = facts
        self._backend = backend
        self._ledger = ledger
        self._journal = journal
        self._budget = Budget(plan.spec.budget)
        keeps = plan.task.method.keeps_artifacts
        self._start = partial(start_of, find=ledger.known.get, read=artifact, keeps_artifacts=keeps)
        self._pump = Pump(backend, ledger, journal, start=self._start)
        self.standing = Standing(facts, plan.spec.evaluation.max_drop)

    def run(self) -> Ending:
        """Run every phase; return why the search ended."""
        ending = self._search()
        self._say_where_the_front_is_cut()
        self._refine()
        self._merge()
        self._distill()
        self._tune()
        return ending

    def build(self, recipe: Recipe) -> SharedWeights:
        """Return the shared weights of a recipe, from the artifact it begins with if there is one.

        Raises:
            EvaluationError: it cannot be built.
        """
        return self._backend.build(recipe, start=self._start(recipe))

    def _run(self, phase: Phase, total: int | None, n_stored: int = 0) -> Ending:
        self._journal.say(PhaseStarted(phase.name, total, n_stored))
        self._pump.run(phase)
        assert phase.ending is not None, f"{phase.name} stopped asking without saying why"
        self._journal.say(PhaseEnded(phase.name, phase.ending))
        return phase.ending

    # ------------------------------------------------------------------ searching

    def _search(self) -> Ending:
        options, budget, seed = self._plan.spec.search, self._budget, self._plan.spec.seed
        space = Space(self._facts.variables or tuple(self._plan.task.method.space()))
        widening = Widening(space, self.standing, self._journal)
        stored = [r for r in self._ledger.known.values() if r.stage == "search"]
        phase: Phase
        if options.algorithm == "steady_nsga2":
            phase = SteadyState(
                SteadyNsga2(space, options, seed=seed),
                self.standing,
                budget,
                self._journal,
                widening=widening,
                population=options.population,
                stored=stored,
            )
        else:
            phase = Generations(
                proposer_of(space, options, seed),
                self.standing,
                budget,
                self._journal,
                widening=widening,
                known=self._ledger.known,
            )
        generations = budget.options.generations
        total = None if generations is None else generations * options.population
        ending = self._run(phase, total, len(stored))
        widening.say_where_it_ends()
        return ending

    def _say_where_the_front_is_cut(self) -> None:
        """Note where given bounds of the first variable, the fineness of a grid, cut the front off.

        Bounds that the preparation has found are widened, or there is nothing better beyond them.
        """
        given = self._plan.task.method.space()[:1]
        variables = [variable for variable in self._facts.variables[:1] if variable in given]
        for text in cut_ends(self.standing.front(), variables):
            self._journal.note(text)

    # ------------------------------------------------------------------ the front's solutions

    def _refine(self) -> None:
        """Make solutions of the search's front again, where the method has a slower way."""
        which = self._plan.spec.refine.solutions
        if not self._plan.task.method.refines:
            return
        self._extend("refine", "refined", which, [Refine()])

    def _distill(self) -> None:
        """Train solutions of the front on their own entries."""
        spec = self._plan.spec
        self._extend("distill", "distilled", spec.distill.solutions, spec.distillings)

    def _tune(self) -> None:
        """Train the entries of solutions of the front."""
        spec = self._plan.spec
        self._extend("tune", "tuned", spec.tune.solutions, spec.tunings)

    def _extend(self, name: str, stage: Stage, which: Solutions, steps: Sequence[Step]) -> None:
        """Take each of some steps on each of some solutions of the front."""
        solutions = chosen(
            self.standing.front(), which, lambda text: self._journal.note(f"{name}: {text}")
        )
        if not solutions:
            return
        phase = Extending(
            name,
            stage,
            [(solution.record, step) for solution in solutions for step in steps],
            self._budget,
            archive=self.standing.archive,
            floor=self.standing.floor,
            n_evaluations=lambda: self._ledger.n_proposed,
        )
        n_stored = sum(p.job.key in self._ledger.known for p in phase.proposals)
        self._run(phase, len(phase.proposals), n_stored)
        self.standing.add(phase.records)

    def _merge(self) -> None:
        """Merge neighbouring entries of the front's solutions while their metric holds."""
        options = self._plan.spec.merge
        if not options.trials or not self._plan.task.method.mergeable:
            return
        solutions = [
            (solution.record, floor)
            for solution in self.standing.front()
            if solution.metric >= (floor := self._merge_floor(solution))
        ]
        if not solutions:
            return
        phase = Merging(
            solutions,
            self._budget,
            self._journal,
            archive=Archive(self._plan.spec.search.objectives),
            trials=options.trials,
            build=self.build,
            outcome=self._ledger.outcome,
            n_evaluations=lambda: self._ledger.n_proposed,
        )
        self._run(phase, len(solutions))
        self.standing.add(phase.records)

    def _merge_floor(self, solution: Solution) -> float:
        max_drop = self._plan.spec.merge.max_drop
        if max_drop is None:
            return solution.metric
        return floor_of(self._facts.baseline, max_drop)


def proposer_of(space: Space, options: SearchOptions, seed: int) -> Search:
    """Return what proposes generations."""
    match options.algorithm:
        case "exhaustive":
            return ExhaustiveSearch(space, population=options.population)
        case "random":
            return RandomSearch(space, population=options.population, seed=seed)
        case _:
            return Nsga2Search(space, options, seed=seed)
