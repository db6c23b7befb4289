"""What to try next. pymoo lives here and nowhere else; torch never does."""
