import numpy as np
from numpy.typing import NDArray

def walk(
    inverse: bool,
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    n_rows: int,
    n_columns: int,
    transitions: NDArray[np.uint8],
    halves: NDArray[np.uint8],
) -> bool: ...
