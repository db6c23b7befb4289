"""From a recipe to shared weights, the same way for whoever asks."""
