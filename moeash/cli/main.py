"""The ``moeash`` command: parse, call, explain.

Exit codes: 0 ok, 1 failed, 2 bad usage or spec, 130 interrupted. Errors are one line on stderr;
``--debug`` shows the traceback. Every command has ``--json``: then stdout holds one JSON document
and nothing else. Heavy imports happen inside the commands, so that ``--help`` is instant.
"""

import signal
import sys
from typing import Annotated, NoReturn

import typer

from moeash import __version__
from moeash.cli import cluster, doctor, files, studies
from moeash.errors import InputError, MoeashError, StudyExistsError, StudyNotFoundError

app = typer.Typer(
    name="moeash",
    help="Search how few shared weights a trained network needs, and export it as a small, "
    "verified file.",
    no_args_is_help=True,
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


app.command("run")(studies.run)
app.command("submit")(cluster.submit)
app.command("stop")(cluster.stop)
app.command("logs")(cluster.logs)
app.command("list")(studies.list_studies)
app.command("status")(studies.status)
app.command("front")(studies.front)
app.command("plot")(studies.plot)
app.command("export")(studies.export)
app.command("verify")(files.verify)
app.command("inspect")(files.inspect)
app.command("decompress")(files.decompress)
app.command("doctor")(doctor.doctor)

USAGE_ERRORS = (InputError, StudyNotFoundError, StudyExistsError)


def main() -> NoReturn:
    """Run the command line and exit."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    # A spec may name package.module:factory from where the person stands, as python -m would find.
    sys.path.insert(0, "")
    # Schedulers and `moeash stop` end a process this way: like Ctrl-C, so that the study says so.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        _complain("interrupted; everything evaluated is stored, run the same command to continue")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader left; that is its right
        sys.exit(0)
    except MoeashError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(2 if isinstance(error, USAGE_ERRORS) else 1)
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error} (a bug? --debug shows where)")
        sys.exit(1)
    sys.exit(0)


def _complain(message: str) -> None:
    print(f"moeash: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
