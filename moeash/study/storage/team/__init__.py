"""What people do with studies: labels, launches, tokens, sessions, and who did what."""
