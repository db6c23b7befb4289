from typing import Any

from numpy.typing import NDArray

CHUNK: int

def assign(
    weights: NDArray[Any],
    origin: float,
    per_width: float,
    n_bins: int,
    lookup: NDArray[Any],
    indices: NDArray[Any],
    n_threads: int,
) -> int: ...
def range_sums(
    ordered: NDArray[Any],
    positions: NDArray[Any],
    block: int,
    high: NDArray[Any],
    low: NDArray[Any],
    sums: NDArray[Any],
) -> None: ...
