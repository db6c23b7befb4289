"""What a running study looks like in a terminal and in a log."""
