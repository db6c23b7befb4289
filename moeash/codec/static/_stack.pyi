import numpy as np
from numpy.typing import NDArray

def push(
    ranks: NDArray[np.int32],
    frequencies: NDArray[np.uint32],
    begins: NDArray[np.uint32],
    state: int,
    words: NDArray[np.uint32],
) -> tuple[int, int]: ...
def pop(
    state: int,
    words: NDArray[np.uint32],
    left: int,
    frequencies: NDArray[np.uint32],
    begins: NDArray[np.uint32],
    places: NDArray[np.int32],
    shift: int,
    out: NDArray[np.int32],
) -> tuple[int, int]: ...
