"""A file written and read tensor by tensor: the network is never in memory."""
