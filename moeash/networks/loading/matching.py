"""Which name in a checkpoint is which name in a network.

Training scripts put tensors into dicts and networks into wrappers, and each leaves a part in the
names: ``state_dict.module.conv.weight``. What is in front of a network's own names is a prefix,
however deep the dicts are nested; the prefix under which most fits is taken.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moeash.errors import CheckpointError

WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts that DataParallel, averaging, torch.compile, FSDP and activation checkpointing add."""

KNOWN = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params"),
    *("weights", "backbone", "encoder"),
)
"""Parts in front of the network that is meant, in order of preference where several fit."""

PASSED_BY = (
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "datetime.datetime", "datetime.date"),
    *("pathlib.PosixPath", "pathlib.Path", "pathlib._local.PosixPath", "pathlib._local.Path"),
)
"""What training scripts store beside tensors: metrics, options, moments,
places. Nothing of it is needed to know which weights are the network's."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Matching:
    """Names of a checkpoint in terms of a network.

    Attributes:
        names: name in the checkpoint to name in the network, for all under the prefix; a name
            that the network does not have is there without the prefix.
        prefix: what was taken off the names, without wrappers.
        aside: names in the checkpoint that are not under the prefix.
    """

    names: Mapping[str, str]
    prefix: str
    aside: tuple[str, ...]


def match(given: Shapes, own: Shapes, *, optional: Collection[str] = ()) -> Matching:
    """Find what a checkpoint calls the tensors of a network.

    Parts of wrappers count on neither side. A prefix of other parts than :data:`KNOWN` is only
    taken when everything fits under it, and under no other.

    Args:
        given: names in the checkpoint and their shapes.
        own: names in the network and their shapes.
        optional: names in the network that a checkpoint may lack.

    Raises:
        CheckpointError: the network fits as well under several prefixes, and none is known.
    """
    if given and all(own.get(name) == shape for name, shape in given.items()):
        return Matching({name: name for name in given}, "", ())  # no prefix can have more of them
    bare_own, bare_given = _bare(own), _bare(given)
    if bare_own is None or bare_given is None:  # names that only a wrapper's part tells apart
        bare_own, bare_given = {name: name for name in own}, {name: name for name in given}
    best: tuple[tuple[int, int, bool, int, int], str, str] | None = None
    rivals: dict[str, tuple[int, int]] = {}
    for added in _common_prefixes(bare_own):
        core = {name.removeprefix(added): full for name, full in bare_own.items()}
        for prefix, fits in _votes(bare_given, core, given, own).items():
            parts = prefix.split(".")[:-1]
            known = all(part in KNOWN for part in parts)
            if not known:
                lacking = [
                    full
                    for name, full in core.items()
                    if prefix + name not in bare_given and full not in optional
                ]
                if lacking or fits[0] < fits[1]:
                    continue
                rivals[prefix] = fits
            rank = -KNOWN.index(parts[0]) if known and parts else 0
            key = (*fits, known, -len(parts) - added.count("."), rank)
            if best is None or key > best[0]:
                best = (key, prefix, added)
    if best is None:
        return Matching({full: name for name, full in bare_given.items()}, "", ())
    key, prefix, added = best
    equal = sorted(name for name, fits in rivals.items() if fits == key[:2])
    if prefix in rivals and len(equal) > 1:
        raise CheckpointError(
            f"the network fits under {', '.join(map(repr, equal[:3]))} alike; save the one that is "
            "meant alone"
        )
    names = {
        full: bare_own.get(added + name.removeprefix(prefix), added + name.removeprefix(prefix))
        for name, full in bare_given.items()
        if name.startswith(prefix)
    }
    return Matching(names, prefix, tuple(name for name in given if name not in names))


def _bare(names: Iterable[str]) -> dict[str, str] | None:
    """Return names without wrappers' parts to names with them; ``None`` if two become one."""
    bare: dict[str, str] = {}
    for name in names:
        *parts, last = name.split(".")
        short = ".".join([*(part for part in parts if part not in WRAPPERS), last])
        if bare.setdefault(short, name) != name:
            return None
    return bare


def _common_prefixes(names: Collection[str]) -> list[str]:
    """Return the known prefixes that all names carry, the empty one first."""
    prefixes = [""]
    if names:
        parts = next(iter(names)).split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth]) + "."
            if parts[depth - 1] not in KNOWN or not all(n.startswith(prefix) for n in names):
                break
            prefixes.append(prefix)
    return prefixes


def _votes(
    bare_given: Mapping[str, str], core: Mapping[str, str], given: Shapes, own: Shapes
) -> dict[str, tuple[int, int]]:
    """Return, for each prefix, how many names fit under it with their shape, and at all."""
    shapes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for name, full in bare_given.items():
        start = 0
        while True:
            found = core.get(name[start:])
            if found is not None:
                names[name[:start]] += 1
                shapes[name[:start]] += given[full] == own[found]
            start = name.find(".", start) + 1
            if not start:
                break
    return {prefix: (shapes[prefix], count) for prefix, count in names.items()}


def foreign(names: Sequence[str], own: Collection[str]) -> list[str]:
    """Return those of ``names`` that lie in no child of the network."""
    children = {_child(name) for name in own}
    return [name for name in names if _child(name) not in children]


def _child(name: str) -> str:
    return next((part for part in name.split(".") if part not in WRAPPERS), name)
