"""The pictures moeash draws, as figures of matplotlib, and their way into a file."""

from moeash.exports.plots.canvas import save
from moeash.exports.plots.front import plot_front
from moeash.exports.plots.hypervolume import plot_hypervolume
from moeash.exports.plots.weights import plot_bytes, plot_codebook

__all__ = ["plot_bytes", "plot_codebook", "plot_front", "plot_hypervolume", "save"]
