"""Start, stop and watch studies that run somewhere else than in this process."""
