"""How the checkpoints that ship with moeash were trained: networks and data, nothing else."""
