from typing import Any

import numpy as np
from numpy.typing import NDArray

def run(
    machine: NDArray[np.uint64],
    words: NDArray[np.uint32],
    starts: NDArray[np.uint32],
    places: NDArray[np.uint32],
    symbols: NDArray[np.unsignedinteger[Any]],
    out: NDArray[np.unsignedinteger[Any]],
    counts: NDArray[np.int64],
) -> None: ...
