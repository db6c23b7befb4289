from typing import Any

import numpy as np
from numpy.typing import NDArray

class Slots:
    def __init__(self, frequencies: NDArray[np.int64], salt: int) -> None: ...

def push(
    slots: Slots,
    ranks: NDArray[np.int32],
    at: int,
    states: NDArray[np.uint64],
    words: NDArray[np.uint32],
) -> int: ...
def pop(
    slots: Slots,
    states: NDArray[np.uint64],
    at: int,
    words: NDArray[np.uint32],
    left: int,
    symbols: NDArray[Any],
    counts: NDArray[np.int64],
    out: NDArray[Any],
) -> int: ...
