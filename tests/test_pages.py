"""The snippets of pages run, one after another, and hold what they say."""

import re
from pathlib import Path

import pytest
import torch

import moeash
from moeash.networks.loading.sources import load_network

PAGES = Path(__file__).parent.parent / ".github"


def snippets(page):
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """What snippets may use, in a folder with a file."""
    network = load_network("digits-cnn").eval()
    moeash.compress(network, tmp_path / "network.moeash", candidate={"k": 12}, progress=False)
    monkeypatch.chdir(tmp_path)
    images = torch.rand(5, 1, 8, 8)
    return {"make_network": lambda: load_network("digits-cnn", weights="random"), "images": images}


def test_the_page_on_loading_does_what_it_says(page, capsys):
    blocks = snippets("LOADING.md")
    for block in blocks:
        exec(compile(block, "LOADING.md", "exec"), page)
    assert len(blocks) == 4 and "bytes at rest" in capsys.readouterr().out
    assert {tensor.dtype for tensor in page["tensors"].values()} >= {torch.float16}
    assert torch.equal(page["again"](page["images"]), page["network"](page["images"]))
    assert not page["report"].dense
