"""The process that everything runs in: its memory, its threads, its imports."""
