"""The base method, counting what it compresses, and one whose files are stored."""

from collections import Counter
from dataclasses import dataclass, field

from moeash.methods.uniform.method import Uniform


@dataclass(frozen=True)
class Counting(Uniform):
    """The base method, which also counts what it compresses."""

    compressed: Counter = field(default_factory=Counter)

    def compress(self, prepared, candidate, **way):
        self.compressed[candidate] += 1
        return super().compress(prepared, candidate, **way)


@dataclass(frozen=True)
class Stored(Counting):
    """The same, with solutions that count as too dear to make again."""

    keeps_artifacts = True
