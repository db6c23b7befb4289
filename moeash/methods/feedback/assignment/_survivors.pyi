import numpy as np
from numpy.typing import NDArray

def fix_columns(
    moving: NDArray[np.float32],
    coupling: NDArray[np.float32],
    variance: NDArray[np.float32],
    between: NDArray[np.float32],
    penalty: NDArray[np.float32],
    start: int,
    stop: int,
    entries: NDArray[np.float32],
    members: NDArray[np.int32],
    bounds: NDArray[np.int32],
    lengths: NDArray[np.float32],
    shortest: NDArray[np.float32],
    transitions: NDArray[np.uint8],
    halves: NDArray[np.uint8],
    chosen: NDArray[np.int32],
    carried: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> None: ...
