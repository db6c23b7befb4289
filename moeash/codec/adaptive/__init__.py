"""The adaptive coder: indices predicted from what was coded before, without tables."""
