"""What is seen in figures."""

import numpy as np

BASELINE = 0.9

POINTS = [
    (0.30, 40_000),
    (0.80, 60_000),
    (0.85, 80_000),
    (0.84, 90_000),  # dominated
    (0.91, 120_000),
    (0.90, 150_000),  # dominated
    (None, 50_000),  # stopped
    (0.86, 75_000, 3),  # dominated by the next
    (0.87, 70_000, 3),
    (0.895, 110_000, 5),
]
CORNERS = [(40, 0.30), (60, 0.80), (70, 0.87), (110, 0.895), (120, 0.91)]


def artist(figure, label):
    """Return the one artist of the main axes with that label."""
    (found,) = (a for a in figure.axes[0].get_children() if a.get_label() == label)
    return found


def points(figure, label):
    return {tuple(np.round(xy, 9)) for xy in artist(figure, label).get_offsets().tolist()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]
