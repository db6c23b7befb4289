import json
from math import exp, log

import pytest
import torch

from studies import minilm
from studies.minilm_bert import MiniLM, WordPiece, sentences

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "naive", "(", "_", "-"]


def test_words_are_cut_into_the_longest_pieces_and_accents_and_case_do_not_count():
    tokenizer = WordPiece(WORDS)
    assert tokenizer.numbers("Unaffable (Naïve_un-un)") == [2, 4, 5, 6, 8, 7, 9, 4, 10, 4, 1, 3]
    assert tokenizer.numbers("unaffable unaffable", most=4) == [2, 4, 5, 3]


def test_a_batch_is_filled_up_and_says_what_is_filling():
    batch = WordPiece(WORDS).batch(["naive", "unaffable"])
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0], [2, 4, 5, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.slow
def test_sentences_are_enough_all_different_and_always_the_same():
    drawn = sentences()
    assert len(drawn) == len(set(drawn)) >= 2 * minilm.N_SENTENCES + 5000
    assert drawn == sentences()
    assert drawn != sentences(seed=1)


@torch.inference_mode()
def test_embeddings_have_length_one_and_filling_does_not_move_them():
    torch.manual_seed(0)
    network = MiniLM().eval()
    ids = torch.randint(5, 30_000, (2, 6))
    mask = torch.ones_like(ids)
    alone = network(ids, mask)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(2))
    filled, longer = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(network(filled, longer), alone, atol=1e-5, rtol=0)
    assert not torch.allclose(network(filled, torch.ones_like(filled)), alone, atol=1e-3)


def test_bytes_at_the_wanted_mean_are_read_off_between_the_two_files_next_to_it():
    rows = [
        {"peer": "a", "size_bytes": size, "holdout_mean": mean, "holdout_least": least}
        for size, mean, least in ((100, 0.94, 0.8), (400, 0.985, 0.9), (9, 0.5, 0.1))
    ]
    size, least = minilm.at_wanted(rows, "a")
    assert size == pytest.approx(exp((log(100) + log(400)) / 2))
    assert least == pytest.approx(0.85)
    assert minilm.at_wanted(rows, "b") is None
    assert minilm.at_wanted(rows[:1], "a") is None


def test_rows_of_one_peer_and_setting_are_replaced(tmp_path):
    first = {"peer": "a", "setting": "x", "size_bytes": 5}
    minilm.put_rows(tmp_path, [first, first | {"setting": "y", "size_bytes": 3}])
    minilm.put_rows(tmp_path, [first | {"size_bytes": 7}])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["setting"], row["size_bytes"]) for row in rows] == [("y", 3), ("x", 7)]
