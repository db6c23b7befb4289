"""The solution a training begins with, in the place of the float network."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from moeash.codec.container import read
from moeash.core.codebook import KeptTensor, SharedWeights, State, keep
from moeash.errors import InputError, MoeashError
from moeash.networks.loading.fitting import Own, check_fit, outline_of
from moeash.networks.network import Network


def read_start(path: str, fingerprint: str | None, network: Network) -> SharedWeights:
    """Return the solution in a ``.moeash`` file.

    Args:
        path: of the file.
        fingerprint: it must have; None: any will do.
        network: it must fit.

    Raises:
        InputError: the file cannot be read, holds another solution, or one of another network.
    """
    where = f"method.start = {path!r}"
    try:
        start = read(path).shared
        arrays = start.decoded()
        check_fit(
            Own.of(network.module),
            {name: outline_of(torch.from_numpy(array)) for name, array in arrays.items()},
            "it",
            lambda one, other: np.array_equal(arrays[one], arrays[other]),
        )
    except MoeashError as error:
        raise InputError(f"{where}: {error}") from error
    found = start.fingerprint()
    if fingerprint not in (None, found):
        raise InputError(
            f"{where} is another solution than the study began with (fingerprint {found[:12]}, was "
            f"{str(fingerprint)[:12]}); give the path that the same file has now"
        )
    return start


def kept_of(start: SharedWeights, state: State) -> Mapping[str, KeptTensor]:
    """Return every kept parameter of a network, by name, as a solution of it has them.

    What the solution shares and the network keeps is kept as it is decoded.
    """
    stored = {tensor.name: tensor for tensor in start.kept}
    arrays = start.decoded()
    return {
        p.name: stored.get(p.name) or keep(replace(p, values=arrays.get(p.name, p.values)))
        for p in state
        if p.role == "kept"
    }
