"""Last words of a process that native code may end, as Ray does whose raylet or GCS has died."""

import os
import subprocess
from contextlib import suppress

LAST_WORDS = (
    "moeash: this process was ended by Ray, whose raylet or control store (GCS) has died, or was "
    "killed; everything evaluated is stored, run the same command to continue"
)


class LastWords:
    """Says on stderr that this process ended without a word, unless it is closed before."""

    def __init__(self) -> None:
        """Start a shell that waits for this process to close a pipe, or to end."""
        reading, self._writing = os.pipe()
        try:
            self._shell = subprocess.Popen(
                ["sh", "-c", 'read -r goodbye || printf "%s\\n" "$1" >&2', "sh", LAST_WORDS],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
            )
        finally:
            os.close(reading)

    def close(self) -> None:
        """End the shell, which then says nothing."""
        with suppress(BrokenPipeError):  # somebody ended it before
            os.write(self._writing, b"goodbye\n")
        os.close(self._writing)
        self._shell.wait()
