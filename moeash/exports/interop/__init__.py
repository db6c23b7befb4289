"""A study, or a file of one, for tools and people that know nothing of moeash."""
