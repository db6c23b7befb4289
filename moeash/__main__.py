"""``python -m moeash``: the ``moeash`` command, where its script is not on the path.

Python puts the folder where a person stands first among the places of modules. It is taken away
before anything else is imported; ``python -P -m moeash`` never looks there.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]
    from moeash.cli.main import main

    main()
