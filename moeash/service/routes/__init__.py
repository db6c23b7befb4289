"""One module for each kind of thing: parse, call, shape."""
