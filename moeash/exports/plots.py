"""The pictures moeash draws, as figures of matplotlib, and their way into a file."""

from moeash.exports.canvas import save
from moeash.exports.front_plot import plot_front
from moeash.exports.hypervolume_plot import plot_hypervolume
from moeash.exports.weight_plots import plot_bytes, plot_codebook

__all__ = ["plot_bytes", "plot_codebook", "plot_front", "plot_hypervolume", "save"]
