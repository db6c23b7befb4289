"""The ``moeash`` command."""
