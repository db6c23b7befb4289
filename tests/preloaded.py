"""What a forked process finds imported: all that a study of the digits takes."""

import importlib

for name in (
    "alembic.command",
    "moeash.api.studies",
    "moeash.cli.main",
    "moeash.methods.feedback.method",
    "moeash.study.run",
    "pandas",
    "pymoo.core.population",
    "sklearn.datasets",
    "torch",
):
    importlib.import_module(name)
