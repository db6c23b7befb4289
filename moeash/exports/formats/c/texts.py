"""C texts: identifiers of names, literals of values."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 96
"""Columns of a line of values."""

_CHUNK = 1 << 16


def identifier(name: str) -> str:
    """Return a name with ``_`` in the place of everything that a C identifier cannot have.

    Example:
        >>> identifier("layer1.0/conv-1")
        'layer1_0_conv_1'
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def identifiers(names: Iterable[str], prefix: str, taken: Collection[str] = ()) -> dict[str, str]:
    """Return a C identifier for every name, different even if all letters were capitals.

    Args:
        names: any text.
        prefix: of each identifier; begins with a letter.
        taken: identifiers that are something else.
    """
    used = {name.upper() for name in taken}
    chosen: dict[str, str] = {}
    for name in names:
        base = found = prefix + identifier(name)
        n = 1
        while found.upper() in used:
            n += 1
            found = f"{base}_{n}"
        used.add(found.upper())
        chosen[name] = found
    return chosen


def text_literal(text: str) -> str:
    r"""Return a string literal that a compiler reads as the UTF-8 bytes of a text.

    Example:
        >>> print(text_literal('a"é'))
        "a\"\303\251"
    """

    def escaped(byte: int) -> str:
        character = chr(byte)
        if character in '"\\?':  # two question marks may begin a trigraph
            return "\\" + character
        return character if 32 <= byte < 127 else f"\\{byte:03o}"

    return '"' + "".join(map(escaped, text.encode())) + '"'


def comment(text: str) -> str:
    """Return a text that may stand in a comment: it neither ends it nor begins another."""
    return re.sub(r"[^ -~]|\?\?", "?", text).replace("*/", "* /").replace("/*", "/ *")


def float_literal(value: float) -> str:
    """Return a finite float32 exactly."""
    text = float(value).hex()
    mantissa, _, exponent = text.partition("p")
    mantissa = mantissa.rstrip("0") if "." in mantissa else mantissa
    return f"{mantissa}{'0' if mantissa.endswith('.') else ''}p{exponent}f"


def integers(values: NDArray[Any]) -> str:
    """Return lines of integer literals that any C99 compiler takes without a warning."""
    name = values.dtype.name
    if name == "int64":
        low = np.iinfo(np.int64).min

        def literal(value: int) -> str:
            # A negative literal is a positive one and a sign, so the lowest has none of its own.
            return f"(-INT64_C({-(value + 1)}) - 1)" if value == low else f"INT64_C({value})"

        return _lines(literal(v) for v in values.tolist())
    if name == "uint64":
        return _lines(f"UINT64_C({v})" for v in values.tolist())
    if name == "int32":
        return _lines(f"INT32_C({v})" if v > -(2**31) else "INT32_MIN" for v in values.tolist())
    if name == "uint32":
        return _lines(f"UINT32_C({v})" for v in values.tolist())
    return _lines(map(str, values.tolist()))


def floats(values: NDArray[np.float32]) -> str:
    """Return lines of literals of finite floats."""
    return _lines(map(float_literal, values.tolist()))


def _lines(literals: Iterable[str]) -> str:
    lines: list[str] = []
    line = ""
    for literal in literals:
        if len(line) + len(literal) > WIDTH:
            lines.append(line)
            line = ""
        line += literal + ","
    lines.append(line)
    return "\n".join(lines)


def values_of(text: str, dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Return the values of literals as this module writes them."""
    plain = re.sub(r"U?INT(?:32|64)_C\(([^)]*)\)", r"\1", text)
    words: Sequence[str] = [word.strip() for word in plain.split(",")]
    words = [word for word in words if word]
    if dtype.kind == "f":
        return np.array([float.fromhex(word.removesuffix("f")) for word in words], dtype)
    special = {"INT32_MIN": -(2**31), "(-9223372036854775807 - 1)": -(2**63)}
    return np.array([special.get(word) or int(word) for word in words], dtype)
