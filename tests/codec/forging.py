"""A forger: damaged files whose lengths and checksum fit, so that every rule behind is reached.

``python -m tests.codec.forging 20000`` forges so many files from those of version 1, under a limit
on memory, and prints what was worst. Every file must be refused with our error or read, within two
seconds of processor time and 200 MiB.
"""

import bz2
import hashlib
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from moeash.codec import container, directory
from moeash.codec.bits import Cursor, varint
from moeash.codec.entries import DTYPES, Entry
from moeash.errors import ContainerError

V1 = Path(__file__).parent / "assets" / "v1"
FLOATS = ["float16", "bfloat16", "float32", "float64"]
EXTREME = [0, 1, 2, 63, 64, 127, 128, 255, 2**14, 2**16, 2**20, 2**24, 2**31, 2**40, 2**63 - 1]

SLOW_S, LARGE = 2.0, 200 << 20
"""What one forged file may take at most: none of them declares more than a few megabytes and is
believed."""


def sections(data):
    """Return the first eight bytes, directory (plain), model, payload and what more there is."""
    cursor = Cursor(memoryview(data)[8:-8])
    sizes = [cursor.varint() for _ in range(4 if data[6] >= 2 else 3)]
    packed, *others = (cursor.take(size) for size in sizes)
    if packed[:1] == b"\1":
        packed = b"\0" + bz2.decompress(packed[1:])
    return data[:8], packed, *others


def sealed(head, *parts):
    """Return a file of these sections with lengths and checksum that fit."""
    body = head + b"".join(varint(len(p)) for p in parts) + b"".join(parts)
    return body + hashlib.blake2b(body, digest_size=8).digest()


def damage(data, rng):
    """Return the data after a flip, cut, insertion, zeroed range, swap or extreme number."""
    if not data:
        return bytes(rng.integers(0, 256, 4, dtype=np.uint8))
    out = bytearray(data)
    at = int(rng.integers(0, len(out)))
    kind = rng.integers(0, 6)
    if kind == 0:
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        out[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 50)), dtype=np.uint8))
    elif kind == 3:
        out[at : at + 64] = bytes(len(out[at : at + 64]))
    elif kind == 4:
        del out[at : at + int(rng.integers(1, 50))]
    else:
        out[at : at + int(rng.integers(0, 3))] = varint(EXTREME[rng.integers(len(EXTREME))])
    return damage(data, rng) if out == data else bytes(out)


def with_entries(data, change):
    """Return a file whose directory says something else, whatever the writer would say."""
    head, packed, *others = sections(data)
    entries, notes = directory.unpack(packed, 1 << 40)
    return sealed(head, b"\0" + directory.columns(change(entries), notes), *others)


def _claim(entry, rng, n):
    """Return an entry that claims something else: what a reader meets behind a sound directory."""
    size = int(rng.choice([0, 1, 2, 1000, 10**5, 10**6, 10**7, 10**8, 2**30, 2**36]))
    claims = [
        {"shape": (size, *entry.shape[1:])},
        {"shape": (*entry.shape[:-1], size)},
        {"shape": (size,)},
        {"shape": (1, size)},
        {"shape": entry.shape[::-1]},
        {"dtype": str(rng.choice(FLOATS))},
        {"stored": str(rng.choice([d for d in DTYPES if d != "bfloat16"]))},
        {"codebook": int(rng.integers(3))},
        {"name": entry.name + "x" * int(rng.integers(1, 900))},
        {"kind": "tied", "target": int(rng.integers(n))},
    ]
    changed = entry._replace(**claims[rng.integers(len(claims))])
    return changed if changed.kind != "kept" or changed.stored else entry


def claiming(data, rng):
    """Return a file of which one to three tensors claim another shape, dtype or codebook."""

    def change(entries):
        changed = list(entries)
        for _ in range(int(rng.integers(1, 4)) if changed else 0):
            at = int(rng.integers(len(changed)))
            changed[at] = _claim(changed[at], rng, at) if at else changed[at]
            changed[at] = _claim(changed[at], rng, 1) if not at else changed[at]
        if rng.random() < 0.1:
            last = len(changed)
            changed += [Entry(f"t{i}", "tied", target=max(last - 1, 0)) for i in range(100)]
        return changed

    return with_entries(data, change)


def forged(data, rng):
    """Return a file of false claims, or with one to three sections damaged; or both."""
    if rng.random() < 0.5:
        data = claiming(data, rng)
        if rng.random() < 0.7:
            return data
    head, *parts = sections(data)
    for _ in range(int(rng.integers(1, 4))):
        # The directory, whose numbers decide the most, as often as all the others.
        which = 0 if rng.random() < 0.5 else int(rng.integers(len(parts)))
        parts[which] = damage(parts[which], rng)
    if rng.random() < 0.1:
        head = head[:6] + bytes([int(rng.integers(3)), int(rng.integers(256))])
    if parts[0][:1] == b"\0" and rng.random() < 0.5:
        parts[0] = b"\1" + bz2.compress(parts[0][1:])
    return sealed(head, *parts)


def main(n):
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    files = [path.read_bytes() for path in sorted(V1.glob("*.moeash"))]
    rng = np.random.default_rng(0)
    outcomes, worst_s, at_start = Counter(), 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in range(n):
        data = forged(files[turn % len(files)], rng)
        started = time.process_time()
        try:
            container.decode(data).shared.decoded()
            outcomes["read"] += 1
        except ContainerError as exc:
            outcomes[" ".join(str(exc).split()[:5])] += 1
        took = time.process_time() - started
        if took > worst_s:
            worst_s = took
            print(f"{turn}: {took:.2f} s, {len(data)} bytes")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start) << 10
    print(f"{n} files, none with a foreign error; at most {worst_s:.2f} s, {grown >> 20} MiB more")
    print(*outcomes.most_common(40), sep="\n")
    if worst_s > SLOW_S or grown > LARGE:
        sys.exit(f"more than {SLOW_S:g} s or {LARGE >> 20} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]))


def cuts(data):
    """A file cut at every length."""
    return (data[:length] for length in range(len(data)))


def flips(data):
    """A file with each of its bits flipped in turn."""
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
