"""Placeholder on the way; replaced before main."""

from moeash.study.spec.reading import spec_of_text
from moeash.study.spec.spec import StudySpec


class Roots:
    def __init__(self, folder) -> None:
        self.folder = folder

    def admit(self, toml: str) -> StudySpec:
        return spec_of_text(toml)

    def settings(self, name: str) -> tuple[str, ...]:
        return (f'output.folder="{self.folder}/studies/{name}"',)
