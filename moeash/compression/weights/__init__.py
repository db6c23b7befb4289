"""A checkpoint compressed by its weights alone: no network, no data, nothing of it in memory."""
