"""The ``moeash`` command: parse, call, explain.

Exit codes: 0 ok, 1 failed, 2 bad usage or spec, 3 no solution meets the pick, 130 interrupted (by
Ctrl-C, SIGTERM, or SIGHUP of a terminal that is closed). Errors are one line on stderr;
``--debug`` shows the traceback. Every command has ``--json``: then stdout holds one JSON document
and nothing else. Heavy imports happen inside the commands, so that ``--help`` is instant.

The folder where a person stands may hold anything, say a downloaded file beside a ``numpy.py``.
Modules are looked for there last, and only by commands whose spec names code.
"""

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from moeash import __version__
from moeash.cli import (
    compare,
    compress,
    doctor,
    files,
    launch,
    report,
    serve,
    spec,
    status,
    studies,
    token,
)
from moeash.console.ending import obeying
from moeash.errors import (
    InputError,
    LaunchNotFoundError,
    MoeashError,
    NothingMeetsError,
    StudyExistsError,
    StudyNotFoundError,
)
from moeash.escaping import visible
from moeash.names import contained
from moeash.options.docs import docstring

if TYPE_CHECKING:
    from moeash.launch.registered import Registration

app = typer.Typer(
    name="moeash",
    help="Search how few shared weights a trained network needs, and export it as a small, "
    "verified file.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Handle what all commands share; ``--debug`` is read by :func:`main`, anywhere in the line."""
    if version:
        print(f"moeash {__version__}")
        raise typer.Exit()


COMMANDS: dict[str, Callable[..., Any]] = {
    "run": studies.run,
    "launch": launch.launch,
    "stop": launch.stop,
    "logs": launch.logs,
    "list": status.list_studies,
    "status": status.status,
    "front": studies.front,
    "plot": studies.plot,
    "compare": compare.compare,
    "export": studies.export,
    "compress": compress.compress,
    "verify": files.verify,
    "inspect": files.inspect,
    "decompress": files.decompress,
    "spec": spec.spec,
    "report": report.report,
    "evaluations": report.evaluations,
    "export-optuna": report.export_optuna,
    "serve": serve.serve,
    "doctor": doctor.doctor,
}
for _name, _command in COMMANDS.items():
    app.command(_name, help=docstring(_command))(contained()(_command))

GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "token": (
        "Say who may use the service.",
        {"create": token.create, "list": token.list_tokens, "revoke": token.revoke},
    ),
}
for _group, (_help, _commands) in GROUPS.items():
    _typer = typer.Typer(name=_group, help=_help)
    for _name, _command in _commands.items():
        _typer.command(_name, help=docstring(_command))(contained()(_command))
    app.add_typer(_typer)

USAGE_ERRORS = (InputError, LaunchNotFoundError, StudyNotFoundError, StudyExistsError)
PARSER_ERRORS: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser refuses. Typer keeps this class private and exports only one below it."""

OK, FAILED, BAD_USAGE, NOTHING_MEETS, INTERRUPTED = 0, 1, 2, 3, 130


def main() -> NoReturn:
    """Run the command line and exit."""
    _open_streams()
    debug = "--debug" in sys.argv
    registration: Registration | None = None
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        # Schedulers and `moeash stop` end a process by SIGTERM, a closed terminal by SIGHUP.
        with obeying(), _plain_warnings():
            registration = _register()
            code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader left, as head does
        _silence()
        code = FAILED
    except Exception as error:
        if debug:
            print(visible(traceback.format_exc(), keep="\n"), file=sys.stderr)
        code = _explain(error)
    except KeyboardInterrupt:  # before the command began, or behind it
        code = INTERRUPTED
        _complain("interrupted")
    if registration is not None:
        _sign_off(registration, code)
    sys.exit(code)


def _register() -> "Registration | None":
    """Tell the database that this process is a launch, where it is one."""
    if "MOEASH_LAUNCH" not in os.environ:
        return None
    from moeash.launch.registered import register

    return register()


def _sign_off(registration: "Registration", code: int) -> None:
    """Tell the database how this process ends, in the words it printed last."""
    try:
        registration.end(code, _said[-1] if code != OK and _said else None)
    except MoeashError as error:
        _complain(f"how this ended could not be stored: {error}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line; names of files and tensors in it are those of others."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {_line(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _open_streams() -> None:
    """Send to nowhere what was closed by whoever started this process, as ``>&-`` does.

    Else the next file that is opened, which may be a database, takes its number and its output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have letters that the terminal's encoding has not; no answer is lost for them.
        with suppress(OSError):  # not where a file became a pipe after Python had looked at it
            sys.stdout.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        # Without a command the help is what the person needs; the usage was wrong all the same.
        returned = app(arguments or ["--help"], prog_name="moeash", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        returned = INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # what typer makes of it
            raise error.__context__ from None
        returned = INTERRUPTED  # by a signal's handler
    code = returned if isinstance(returned, int) else OK
    if code == INTERRUPTED:
        stored = "; everything evaluated is stored, run the same command to continue"
        _complain("interrupted" + (stored if arguments[:1] == ["run"] else ""))
    return code if arguments else BAD_USAGE


def _silence() -> None:
    """Let Python not complain once more while it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    if isinstance(error, PARSER_ERRORS):
        context = getattr(error, "ctx", None)
        command = "moeash" if context is None else context.command_path
        text = getattr(error, "format_message", error.__str__)().replace("Value error, ", "")
        _complain(f"{text[:1].lower()}{text[1:].rstrip('.')} (see {command} --help)")
        return BAD_USAGE
    if isinstance(error, MoeashError):
        _complain(str(error))
        if isinstance(error, NothingMeetsError):
            return NOTHING_MEETS
        return BAD_USAGE if isinstance(error, USAGE_ERRORS) else FAILED
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _silence()
        where = "what the answer is written to" if error.filename is None else error.filename
        _complain(f"cannot write all of it: {where} is full; make room, or write it elsewhere")
        return FAILED
    _complain(f"{type(error).__name__}: {error} (a bug? --debug shows where)")
    return FAILED


_said: list[str] = []
"""Lines of errors, in order."""


def _complain(message: str) -> None:
    _said.append(_line(message))
    with suppress(OSError):  # of a terminal that was closed: the exit code says it too
        print(f"moeash: {_line(message)}", file=sys.stderr)


def _line(text: str) -> str:
    return visible(" ".join(text.split()))
