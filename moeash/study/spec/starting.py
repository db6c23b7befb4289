"""The solution that a study's method begins with: a file may move, its content may not change."""

from dataclasses import replace

from moeash.codec.container import read
from moeash.errors import ContainerError, InputError
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.wfn.options import WfnOptions
from moeash.study.spec.spec import StudySpec


def start_at(spec: StudySpec, path: str | None) -> StudySpec:
    """Return a spec whose method begins with the solution in another file."""
    if not isinstance(spec.method, WfnOptions | PwfnOptions):
        return spec
    return replace(spec, method=replace(spec.method, start=path))


def with_start(spec: StudySpec, fingerprint: str | None = None) -> StudySpec:
    """Return a spec with the fingerprint of the solution that its method begins with, if any.

    Args:
        spec: of a study.
        fingerprint: of the solution, where it is known; None: the file is read.

    Raises:
        InputError: there is no such file, it holds no solution, or another one than the spec says.
    """
    method = spec.method
    if not isinstance(method, WfnOptions | PwfnOptions) or method.start is None:
        return spec
    said = method.start_fingerprint
    if fingerprint is None:
        try:
            fingerprint = read(method.start).shared.fingerprint()
        except ContainerError as error:
            raise InputError(
                f"method.start = {method.start!r}: {error}; name the .moeash file of a solution, "
                "as `moeash export` writes it"
            ) from error
        if said not in (None, fingerprint):
            raise InputError(
                f"method.start = {method.start!r} is another solution than it was (fingerprint "
                f"{fingerprint[:12]}, was {said[:12]}); give the path that the same file has now"
            )
    return replace(spec, method=replace(method, start_fingerprint=said or fingerprint))
