"""Memory that begins where a test wants it to."""

import numpy as np


def placed(content, offset=0):
    """Return a read-only copy of bytes that begins so many bytes behind a multiple of 64."""
    memory = np.zeros(len(content) + 128, dtype=np.uint8)
    start = -memory.ctypes.data % 64 + offset
    memory[start : start + len(content)] = np.frombuffer(content, dtype=np.uint8)
    return memoryview(memory[start : start + len(content)]).toreadonly()
