"""Tensors decoded by a program in C, for scripts that load a network from all it leaves as."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PROGRAM = """\
#define {PREFIX}_IMPLEMENTATION
#include "{prefix}.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{{
    unsigned char *buffer = malloc({PREFIX}_BYTES);
    size_t i;
    if (!buffer)
        return 1;
    for (i = 0; i < {PREFIX}_TENSORS; i++) {{
        {prefix}_decode(i, buffer + {prefix}_tensors[i].offset);
        fwrite(buffer + {prefix}_tensors[i].offset, {prefix}_tensors[i].element_bytes,
               {prefix}_tensors[i].elements, stdout);
    }}
    free(buffer);
    return 0;
}}
"""
"""Writes every tensor as bytes, in the order of the state_dict."""

GCC = "gcc -std=c99 -Wall -Wextra -Werror -pedantic -O1 main.c -o main"


def in_c(header: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a program decodes which was compiled with a header.

    Args:
        header: what ``format="c"`` wrote; its stem is the prefix of what it declares.
        like: tensors of the same names, shapes and dtypes, in the order of the file.
    """
    prefix = header.stem
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "main.c").write_text(PROGRAM.format(prefix=prefix, PREFIX=prefix.upper()))
        (folder / header.name).symlink_to(header.resolve())
        subprocess.run(GCC.split(), cwd=folder, check=True)
        decoded = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True).stdout
    state, start = {}, 0
    for name, tensor in like.items():
        values = np.frombuffer(decoded, np.uint8, tensor.nbytes, start).copy()
        state[name] = torch.from_numpy(values).view(tensor.dtype).reshape(tensor.shape)
        start += tensor.nbytes
    if start != len(decoded):
        raise SystemExit(f"the program wrote {len(decoded)} bytes where {start} were expected")
    return state
