"""Studies as files that open without a server."""
