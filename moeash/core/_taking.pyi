from typing import Any

from numpy.typing import NDArray

def take(entries: NDArray[Any], indices: NDArray[Any], out: NDArray[Any]) -> None: ...
