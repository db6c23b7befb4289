"""Finding a network by name: built-in, torchvision's, or made by a user's function."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeash.errors import CheckpointError, InputError
from moeash.names import call_factory, nearest
from moeash.networks.loading.builtin import BUILTIN, SHIPPED
from moeash.networks.loading.checkpoints import fit, load_checkpoint
from moeash.networks.network import Network
from moeash.networks.options import TORCHVISION, NetworkOptions
from moeash.networks.parameters import read_state

RANDOM = "random"
"""``weights`` for an untrained network with seeded weights: to try sizes and speed."""


def read_network(options: NetworkOptions, module: nn.Module | None = None) -> Network:
    """Load a network and read its state.

    Args:
        options: where it is, and which of its parameters are shared.
        module: the network itself, in the place of ``options.source``.
    """
    if module is not None:
        name = type(module).__name__
        if options.checkpoint is not None:
            fit(module, load_checkpoint(options.checkpoint), options.checkpoint)
    else:
        name = options.source
        module = load_network(
            options.source,
            checkpoint=options.checkpoint,
            weights=options.weights,
            options=options.options,
        )
    state = read_state(
        module, include=options.include, exclude=options.exclude, all=options.share_all
    )
    return Network(module, state, name)


def load_network(
    source: str,
    *,
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a trained network, in eval mode on the CPU.

    Args:
        source: a built-in name (:data:`~moeash.networks.loading.builtin.BUILTIN`),
            ``"torchvision:resnet18"``, or ``"package.module:factory"``, a function that takes
            ``options`` and returns a ``torch.nn.Module``.
        checkpoint: a safetensors, torch or moeash file with the weights.
        weights: torchvision's enum name such as ``"IMAGENET1K_V1"`` (which torchvision downloads
            into its cache) or, for built-in and torchvision networks, ``"random"``.
        options: keyword arguments of the network, e.g. ``n_classes`` or torchvision's
            ``num_classes``.

    Raises:
        InputError: nothing goes by that name, an option is refused, a factory failed, or it is
            not said where the weights come from.
        CheckpointError: the weights cannot be read or do not fit.
    """
    options = dict(options or {})
    if checkpoint is not None and weights is not None:
        raise InputError(f"weights={weights!r} and a checkpoint were both given; give one")
    if source in BUILTIN:
        module = _builtin(source, checkpoint, weights, options)
    elif source.startswith(TORCHVISION):
        module = _torchvision(source, checkpoint, weights, options)
    elif ":" in source:
        if weights is not None:
            raise InputError(f"weights={weights!r} is not for factories; {source!r} has options")
        module = call_factory(source, options)
        if not isinstance(module, nn.Module):
            raise InputError(
                f"{source!r} returned {type(module).__name__}, needed a torch.nn.Module"
            )
    else:
        import torchvision  # takes a second to load

        known = [*BUILTIN, *(TORCHVISION + name for name in torchvision.models.list_models())]
        raise InputError(
            f"no network is called {source!r}; {nearest(source, known)}; "
            f"or give 'package.module:factory'"
        )
    if checkpoint is not None:
        fit(module, load_checkpoint(checkpoint), checkpoint)
    return module.cpu().eval()


def _builtin(
    source: str, checkpoint: str | Path | None, weights: str | None, options: dict[str, Any]
) -> nn.Module:
    if weights not in (None, RANDOM):
        raise InputError(f"{source!r} has no weights {weights!r}; give a checkpoint, or 'random'")
    module = _build(source, lambda: BUILTIN[source](**options))
    if checkpoint is None and weights is None:
        if source not in SHIPPED:
            raise _no_weights(source)
        file = resources.files("moeash.networks") / "trained" / SHIPPED[source]
        with resources.as_file(file) as path:
            fit(module, load_checkpoint(path), path)
    return module


def _torchvision(
    source: str, checkpoint: str | Path | None, weights: str | None, options: dict[str, Any]
) -> nn.Module:
    import torchvision  # takes a second to load

    name = source.removeprefix(TORCHVISION)
    names = torchvision.models.list_models()
    if name not in names:
        raise InputError(f"torchvision has no model {name!r}; {nearest(name, names)}")
    if weights is None and checkpoint is None:
        raise _no_weights(source)
    enum = None
    if weights not in (None, RANDOM):
        valid = torchvision.models.get_model_weights(name).__members__
        if weights not in valid:
            raise InputError(f"{source!r} has no weights {weights!r}; {nearest(weights, valid)}")
        enum = valid[weights]
    builder = torchvision.models.get_model_builder(name)
    if enum is None and "weights_backbone" in inspect.signature(builder).parameters:
        options.setdefault("weights_backbone", None)  # else torchvision downloads a backbone
    try:
        return _build(source, lambda: builder(weights=enum, **options))
    except OSError as exc:  # urllib's errors are OSErrors
        raise CheckpointError(
            f"torchvision could not fetch {weights!r} of {source!r}: {exc}; "
            f"download it elsewhere and give it as checkpoint"
        ) from exc


def _build(source: str, factory: Callable[[], nn.Module]) -> nn.Module:
    """Build a network reproducibly, the caller's random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # about initial weights, replaced
                return factory()
        except (TypeError, ValueError) as exc:
            raise InputError(f"{source!r} refuses its options: {exc}") from exc


def _no_weights(source: str) -> InputError:
    return InputError(
        f"{source!r} was given no weights; give a checkpoint file"
        + (", or weights=… " if source.startswith(TORCHVISION) else " ")
        + f"({RANDOM!r} builds an untrained network)"
    )
