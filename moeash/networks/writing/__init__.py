"""Other weights in a module's own memory, and its own ones back."""
