"""Format ``c``: one C99 header with the packed network and functions that decode it."""
