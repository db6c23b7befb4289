"""Who may run what, and where files are now: a database is a file that people pass on.

The spec in it names functions, and functions are found by importing. So nothing of a user's is run
because a database says so: whoever opens the study names the modules that may, or gives the spec
itself again. A spec that a person runs is that person's own.
"""

from collections.abc import Sequence

from moeash.errors import InputError, StudyExistsError
from moeash.methods.fixing.options import StagedOptions
from moeash.names import defines, is_allowed
from moeash.study.spec.identity import PLACES, with_places
from moeash.study.spec.reading import apply_override
from moeash.study.spec.spec import StudySpec
from moeash.study.spec.starting import with_start
from moeash.study.study import Study

WAYS = (
    "allow it with --allow-module {module} (from Python: allow_modules=[{module!r}]) if you trust "
    "it, or give the study's own file with --spec"
)


def give_spec(study: Study, spec: StudySpec) -> None:
    """Let a study's files be where a person's spec says, and the code it names run.

    Raises:
        StudyExistsError: it is the spec of another study.
    """
    stored = StudySpec.from_dict(study.facts.spec)
    if isinstance(stored.method, StagedOptions) and stored.method.start_fingerprint is not None:
        # Whoever only reads the study has no need of the file.
        spec = with_start(spec, stored.method.start_fingerprint)
    if spec.name != study.name or spec.fingerprint() != study.facts.fingerprint:
        named = [] if spec.name == study.name else [f"name: {spec.name!r}"]
        raise StudyExistsError(
            f"the spec given for study {study.name!r} is not its own ("
            + "; ".join([*named, *stored.differences(spec)])
            + ")"
        )
    study.spec = spec
    study.allowed |= set(spec.user_code.values())


def move(study: Study, settings: Sequence[str]) -> None:
    """Let a study's files and device be where settings such as ``data.root=/data`` say.

    Raises:
        SpecError: a setting is none.
        InputError: a setting says anything else, which would be another study.
    """
    places = [".".join(path) for path in PLACES]
    named = f"{', '.join(places[:-1])} and {places[-1]}"
    now = study.spec.to_dict()
    for setting in settings:
        place = setting.partition("=")[0].strip()
        if place not in places:
            raise InputError(
                f"--set {setting}: of a stored study only {named} can be given "
                "anew, anything else would be another study"
            )
        apply_override(now, setting)
    study.spec = StudySpec.from_dict(with_places(study.spec.to_dict(), now))


def check_allowed(study: Study) -> None:
    """Refuse code that nobody but the stored spec names.

    Whoever allows a module allows the functions and classes that it defines, not whatever it has
    imported: else ``mine:os.system`` would run for people who trust ``mine``.

    Raises:
        InputError: names it, and what allows it.
    """
    for place, reference in study.spec.user_code.items():
        module, _, function = reference.partition(":")
        named = f"study {study.name!r} names code to run, {place} = {reference!r}; "
        if not is_allowed(reference, study.allowed):
            raise InputError(named + WAYS.format(module=module))
        if reference not in study.allowed and not defines(module, function):
            raise InputError(
                f"{named}{module!r} is allowed, but defines no function {function!r} of its own; "
                + WAYS.format(module=reference)
            )
