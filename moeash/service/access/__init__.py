"""Who may do what, and what may come in."""
