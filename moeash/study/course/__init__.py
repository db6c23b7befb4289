"""The course of a study: its phases, one pump for all of them, one budget."""
