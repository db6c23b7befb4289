"""Names that people type: the nearest valid ones, and ``package.module:function`` references.

Networks, data and metrics may all be supplied by a user's function; they are found and called here
and nowhere else, so that a failing factory is reported the same way everywhere.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import signal
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ContextDecorator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import TracebackType
from typing import Any

from moeash.errors import InputError, MoeashError, UserCodeError


def nearest(name: str, valid: Iterable[str], *, n: int = 3) -> str:
    """Return ``"nearest: 'a', 'b'"``, the valid names most like ``name``, ready for a message.

    When nothing is similar, every valid name is listed, at most 12.
    """
    names = list(dict.fromkeys(valid))
    close = difflib.get_close_matches(str(name), names, n=n)
    if close:
        return "nearest: " + ", ".join(map(repr, close))
    if not names:
        return "there are none"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return "valid: " + ", ".join(map(repr, names[:12])) + more


def is_reference(name: str) -> bool:
    """Tell whether ``name`` has the form ``package.module:function``."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, [*module.split("."), *function.split(".")]))


def is_allowed(reference: str, allowed: Collection[str]) -> bool:
    """Tell whether a reference, its module or a package of it is among those allowed."""
    module = reference.partition(":")[0]
    packages = [module[:end] for end, at in enumerate(f"{module}.") if at == "."]
    return any(name in allowed for name in (reference, *packages))


def defines(module: str, function: str) -> bool:
    """Tell whether a module's own text defines a function or class, without importing anything.

    Allowing a module does not allow what it happens to import, such as ``os``.

    Args:
        module: perhaps in packages, ``package.module``.
        function: a name of its own; nothing inside a class.
    """
    found = _found(module)
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return False
    try:
        tree = ast.parse(Path(found.origin).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    defined = ast.FunctionDef | ast.ClassDef
    return any(isinstance(node, defined) and node.name == function for node in tree.body)


def _found(module: str) -> ModuleSpec | None:
    """Return where a module would be imported from; packages around it are not imported."""
    first, *inner = module.split(".")
    try:
        found = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    name = first
    for part in inner:
        if found is None or found.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, [*found.submodule_search_locations])
    return found


def find_function(
    reference: str, *, error: Callable[[str], InputError] = InputError
) -> Callable[..., Any]:
    """Import the function ``package.module:function`` refers to.

    Args:
        reference: where the function is; the module must be importable.
        error: the class to raise.

    Raises:
        InputError: the reference is malformed, the module cannot be imported, or it has no such
            callable.
    """
    if not is_reference(reference):
        raise error(f"{reference!r} does not have the form 'package.module:function'")
    module_name, _, path = reference.partition(":")
    try:
        with contained():
            found: Any = importlib.import_module(module_name)
    except Exception as exc:
        where = "; is its folder on PYTHONPATH?" if isinstance(exc, ImportError) else ""
        raise error(
            f"cannot import {module_name!r} for {reference!r}: {_one_line(exc)}{where}"
        ) from exc
    for attribute in path.split("."):
        owner = found
        found = getattr(owner, attribute, None)
        if found is None:
            public = [key for key in dir(owner) if not key.startswith("_")]
            raise error(
                f"{module_name!r} has no {attribute!r}, needed by {reference!r}; "
                f"{nearest(attribute, public)}"
            )
    if not callable(found):
        raise error(f"{reference!r} is {type(found).__name__}, needed a function")
    return found  # type: ignore[no-any-return]


def call_factory(
    reference: str,
    options: Mapping[str, Any],
    *,
    error: Callable[[str], InputError] = InputError,
) -> Any:
    """Call a user's function with ``options`` and report what was called when it fails.

    Raises:
        InputError: the function cannot be found, does not take the options, or raised; its own
            exception is the cause.
    """
    function = find_function(reference, error=error)
    call = f"{reference}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    try:
        with contained():
            return function(**options)
    except MoeashError as exc:
        if isinstance(exc, UserCodeError):
            raise error(f"{call}: {exc}") from exc
        raise
    except Exception as exc:
        raise error(f"{call} raised {_one_line(exc)}") from exc


class contained(ContextDecorator):
    """Make what ends a process an error of the user's code, here or in a decorated function.

    ``SystemExit`` and its like would otherwise end a study without a word, and with the exit code
    of a success. Ctrl-C and what a signal's handler raises are no errors: they go on as they are.

    Example:
        >>> try:
        ...     with contained():
        ...         raise SystemExit(0)
        ... except UserCodeError as error:
        ...     str(error).partition(" (")[0]
        "the user's code raised SystemExit: 0"
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception | KeyboardInterrupt):
            return
        if not _is_of_a_signal(error):
            # exit() raises within Python itself; who called it is meant.
            *_, (frame, line) = (
                place
                for place in traceback.walk_tb(error.__traceback__)
                if not place[0].f_code.co_filename.startswith("<frozen ")
            )
            where = f"{frame.f_code.co_filename}, line {line}"
            raise UserCodeError(
                f"the user's code raised {_one_line(error)} ({where}), which would end the whole "
                "process; let the code raise an exception instead"
            ) from error


def _is_of_a_signal(error: BaseException) -> bool:
    """Tell whether an error comes from a signal's handler: somebody wants the process to end."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(handler, "__code__", None) for handler in handlers} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    what: str,
    error: Callable[[str], InputError] = InputError,
) -> None:
    """Refuse options that ``function`` has no keyword-only parameter for.

    Raises:
        InputError: an option is unknown; the message names the nearest valid one.
    """
    valid = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in valid:
            raise error(f"{what} has no option {name!r}; {nearest(name, valid)}")


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return (
        text if isinstance(exc, MoeashError) else f"{type(exc).__name__}: {text}".removesuffix(": ")
    )
