"""The description of a study: every concern's options, assembled, read and documented."""
