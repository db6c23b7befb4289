"""What a solution is named, what it is worth, and which of two is better."""
