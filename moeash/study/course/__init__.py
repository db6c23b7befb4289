"""The course of a study: one pump, phases that propose, one budget."""
