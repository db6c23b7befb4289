"""moeash: multi-objective evolutionary search for small networks by weight sharing."""
