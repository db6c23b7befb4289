"""The text of a C file.

It compiles as C99 without a warning, needs ``<stddef.h>`` and ``<stdint.h>`` alone, allocates
nothing and does not depend on the order of bytes. It takes float and double as IEEE 754 has them,
which the text checks as far as C can.
"""

from collections.abc import Iterator, Mapping

from moeash.exports.formats.c.layout import Layout, Row, element_bytes
from moeash.exports.formats.c.texts import comment, float_literal, floats, integers, text_literal

ELEMENT = {
    "float_bits": "{p}float({data})",
    "double_bits": "{p}double({data})",
    "half": "{p}half({data})",
    "bfloat": "{p}float((uint32_t){data} << 16)",
    "steps": "(float){data} * {step}",
    "integers": "{data}",
}
"""What makes a stored element its value, by the kind of a packed tensor."""

HEAD = """\
/* {file}: written by moeash; decodes to exactly the network it was made of.
{metadata}
 *
 * A network with shared weights: indices into a codebook, packed. In one C file of a program
 *
 *     #define {P}IMPLEMENTATION
 *     #include "{file}"
 *
 * and in all others the second line alone. Each tensor has a function that decodes it to as many
 * elements as its macro ..._N says, in C order. {p}tensors has the same as a table, and
 * {p}decode(i, {p}tensors[i].offset + buffer) fills an aligned buffer of {P}BYTES bytes.
 */
#ifndef {P}H
#define {P}H

#include <stddef.h>
#include <stdint.h>

#define {P}TENSORS {n}
#define {P}BYTES {n_bytes}

typedef struct {{
    const char *name;      /* in the network */
    const char *dtype;     /* in the network; float16 and bfloat16 are decoded to float */
    size_t elements;       /* of C; a complex number is two, the real part first */
    size_t element_bytes;
    size_t dimensions;
    const size_t *shape;
    size_t offset;         /* bytes; tied names have the same */
}} {p}tensor;

extern const {p}tensor {p}tensors[{P}TENSORS];
void {p}decode(size_t tensor, void *to);
"""

CHECKS = """\
typedef char {p}float_has_32_bits[sizeof(float) == 4 ? 1 : -1];
typedef char {p}double_has_64_bits[sizeof(double) == 8 ? 1 : -1];
"""

FLOAT = """\
static float {p}float(uint32_t bits)
{{
    union {{ uint32_t bits; float value; }} both;
    both.bits = bits;
    return both.value;
}}
"""

DOUBLE = """\
static double {p}double(uint64_t bits)
{{
    union {{ uint64_t bits; double value; }} both;
    both.bits = bits;
    return both.value;
}}
"""

HALF = """\
static float {p}half(uint16_t half)
{{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (uint32_t)(half >> 10) & 31u, mantissa = half & 1023u;
    if (exponent == 31u)
        return {p}float(sign | 0x7f800000u | mantissa << 13);
    if (exponent)
        return {p}float(sign | (exponent + 112u) << 23 | mantissa << 13);
    return sign ? -((float)mantissa * 0x1.0p-24f) : (float)mantissa * 0x1.0p-24f;
}}
"""

LOOKUP = """\
static void {p}{ctype}_entries(const uint8_t *data, unsigned width, const float *entries,
                               {ctype} *to, size_t n)
{{
    uint32_t bits = 0, mask = ((uint32_t)1 << width) - 1;
    unsigned held = 0;
    size_t i;
    for (i = 0; i < n; i++) {{
        for (; held < width; held += 8)
            bits |= (uint32_t)*data++ << held;
        to[i] = entries[bits & mask];
        bits >>= width;
        held -= width;
    }}
}}
"""


def parts(layout: Layout, metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield the text of a file in pieces, each of whole lines.

    Args:
        layout: what stands in it.
        metadata: where it comes from.
    """
    p, upper = layout.prefix, layout.prefix.upper()
    noted = "\n".join(f" * {comment(key)}: {comment(value)}" for key, value in metadata.items())
    yield HEAD.format(
        file=comment(layout.file),
        metadata=noted or " *",
        p=p,
        P=upper,
        n=len(layout.rows),
        n_bytes=layout.n_bytes,
    )
    for row in layout.rows:
        shape = " x ".join(map(str, row.tensor.shape)) or "one value"
        yield f"/* {comment(row.name)}: {row.tensor.dtype}, {shape} */"
        yield f"#define {row.function.upper()}_N {row.packed.elements}"
        yield f"void {row.function}({row.packed.ctype} *to);"
    yield f"\n#endif\n\n#if defined({upper}IMPLEMENTATION) && !defined({upper}IMPLEMENTED)"
    yield f"#define {upper}IMPLEMENTED\n"
    yield from _helpers(layout)
    for place, book in enumerate(layout.books):
        yield f"static const float {p}entries_{place}[{book.size}] = {{\n{floats(book)}\n}};\n"
    for place, row in enumerate(layout.rows):
        yield from _tensor(layout, place, row)
    yield from _table(layout)
    yield "#endif"


def _helpers(layout: Layout) -> Iterator[str]:
    """Yield the functions that something in the file uses."""
    p = layout.prefix
    entries = [row.packed for row in layout.rows]
    used = {entry.kind for entry in entries}
    looked_up = {entry.ctype for entry in entries if entry.kind == "codebook" and entry.width}
    yield CHECKS.format(p=p)
    if used & {"float_bits", "half", "bfloat"}:
        yield FLOAT.format(p=p)
    if "double_bits" in used:
        yield DOUBLE.format(p=p)
    if "half" in used:
        yield HALF.format(p=p)
    for ctype in sorted(looked_up):
        yield LOOKUP.format(p=p, ctype=ctype)


def _tensor(layout: Layout, place: int, row: Row) -> Iterator[str]:
    """Yield a tensor's array, and the function that decodes it."""
    p, entry = layout.prefix, row.packed
    data = f"{p}data_{place}"
    head = f"void {row.function}({entry.ctype} *to)\n{{\n"
    if row.is_tied:
        (target,) = (r for r in layout.rows if r.name == row.tensor.name)
        yield f"{head}    {target.function}(to);\n}}\n"
        return
    if not entry.elements:
        yield f"{head}    (void)to;\n}}\n"
        return
    if entry.data.size:
        ctype = f"{entry.data.dtype.name}_t"
        yield f"static const {ctype} {data}[{entry.data.size}] = {{\n{integers(entry.data)}\n}};"
    if entry.kind == "codebook" and entry.width:
        book = f"{p}entries_{entry.codebook}"
        call = f"{p}{entry.ctype}_entries({data}, {entry.width}, {book}, to, {entry.elements});"
        yield f"{head}    {call}\n}}\n"
        return
    if entry.kind == "codebook":
        value = f"{p}entries_{entry.codebook}[0]"
    else:
        element = f"{data}[{'0' if entry.data.size < entry.elements else 'i'}]"
        step = float_literal(2.0**entry.exponent)
        value = ELEMENT[entry.kind].format(p=p, data=element, step=step)
    loop = f"    for (i = 0; i < {entry.elements}; i++)\n        to[i] = {value};\n"
    yield f"{head}    size_t i;\n{loop}}}\n"


def _table(layout: Layout) -> Iterator[str]:
    """Yield the table of all tensors, and the function that decodes one of them."""
    p, upper = layout.prefix, layout.prefix.upper()
    for place, row in enumerate(layout.rows):
        if row.tensor.shape:
            sizes = ", ".join(map(str, row.tensor.shape))
            yield f"static const size_t {p}shape_{place}[{len(row.tensor.shape)}] = {{{sizes}}};"
    yield f"\nconst {p}tensor {p}tensors[{upper}TENSORS] = {{"
    for place, row in enumerate(layout.rows):
        shape = f"{p}shape_{place}" if row.tensor.shape else "NULL"
        yield (
            f"    {{{text_literal(row.name)}, {text_literal(row.tensor.dtype)}, "
            f"{row.packed.elements}, {element_bytes(row.packed)}, {len(row.tensor.shape)}, "
            f"{shape}, {row.offset}}},"
        )
    yield f"}};\n\nvoid {p}decode(size_t tensor, void *to)\n{{\n    switch (tensor) {{"
    for place, row in enumerate(layout.rows):
        yield f"    case {place}: {row.function}(({row.packed.ctype} *)to); break;"
    yield "    default: break;\n    }\n}\n"
