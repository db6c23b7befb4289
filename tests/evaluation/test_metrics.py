from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.metrics import f1_score

from moeash.errors import EvaluationError, SpecError
from moeash.evaluation.metrics import METRICS, MeanScore, load_metric, predicted

N_CLASSES = 5


def margin_score(outputs, labels):
    """A user's metric: how probable the label is, best 1."""
    return torch.softmax(outputs.double(), dim=1).gather(1, labels[:, None])[:, 0]


margin_score.best = 1.0
ALL = {**METRICS, "user": MeanScore("user", margin_score)}


def evaluated(metric, labels, outputs, *, batch_size, float_outputs=None):
    """Return the final value and the bound before each batch and after the last."""
    float_outputs = outputs if float_outputs is None else float_outputs
    tally = metric.start(metric.targets(labels, float_outputs))
    bounds = [tally.upper_bound()]
    for start in range(0, len(labels), batch_size):
        tally.add(outputs[start : start + batch_size])
        bounds.append(tally.upper_bound())
    return tally.value(), bounds


def drawn(seed, n=97, n_classes=N_CLASSES):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    # Logits that favour the label, so that metrics are neither 0 nor chance.
    logits = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    return labels, torch.tensor(logits, dtype=torch.float32)


@given(seed=st.integers(0, 10**6), batch_size=st.sampled_from([1, 7, 32, 97, 200]))
@settings(deadline=None, max_examples=40)
def test_values_equal_slow_definitions(seed, batch_size):
    labels, outputs = drawn(seed)
    classes = outputs.argmax(1).numpy()
    logits = outputs.double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    own = log_p[np.arange(len(labels)), labels]
    _, float_outputs = drawn(seed + 1)
    float_p = np.exp(float_outputs.double().numpy())
    float_p /= float_p.sum(axis=1, keepdims=True)
    expected = {
        "top1": np.mean(classes == labels),
        "macro_f1": f1_score(labels, classes, average="macro", labels=np.unique(labels)),
        "neg_cross_entropy": own.mean(),
        "agreement": np.mean(classes == float_outputs.argmax(1).numpy()),
        "neg_divergence": (float_p * (log_p - np.log(float_p))).sum(axis=1).mean(),
        "user": np.exp(own).mean(),
    }
    for name, metric in ALL.items():
        value, _ = evaluated(
            metric, labels, outputs, batch_size=batch_size, float_outputs=float_outputs
        )
        assert value == pytest.approx(expected[name], abs=1e-12), name


@given(
    name=st.sampled_from(sorted(ALL)),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    batch_size=st.sampled_from([1, 5, 16]),
)
@settings(deadline=None, max_examples=200)
def test_no_remaining_outputs_lift_a_metric_above_its_bound(name, seed, scale, batch_size):
    labels, outputs = drawn(seed, n=40)
    # Whatever comes: from indifferent to certain, and often right on the rest.
    outputs = outputs * scale
    if seed % 2:
        half = len(labels) // 2
        outputs[half:] = 30.0 * torch.eye(N_CLASSES)[torch.from_numpy(labels[half:])]
    _, float_outputs = drawn(seed, n=40)
    value, bounds = evaluated(
        ALL[name], labels, outputs, batch_size=batch_size, float_outputs=float_outputs
    )
    assert all(later <= earlier for earlier, later in pairwise(bounds))
    assert bounds[-1] == value


@pytest.mark.parametrize("name", ["top1", "macro_f1", "agreement"])
@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_attained_when_all_that_remains_is_right(name, seed):
    labels, outputs = drawn(seed)
    targets = ALL[name].targets(labels, outputs.flip(1))
    outputs[40:] = torch.eye(N_CLASSES)[torch.from_numpy(targets[40:])]
    tally = ALL[name].start(targets)
    tally.add(outputs[:40])
    bound = tally.upper_bound()
    tally.add(outputs[40:])
    assert tally.value() == bound < 1


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_the_bound_of_a_mean_survives_rounding(seed):
    # Scores of 0.1 are not exact in binary: summed in another order they exceed n * 0.1.
    def tenth(outputs, labels):
        return torch.full((len(outputs),), 0.1, dtype=torch.float64)

    tenth.best = 0.1
    n = int(np.random.default_rng(seed).integers(1, 60))
    labels, outputs = drawn(seed, n=n)
    value, bounds = evaluated(MeanScore("tenth", tenth), labels, outputs, batch_size=3)
    assert set(bounds) == {value}


def test_a_class_without_labels_does_not_enter_macro_f1():
    labels = np.array([0, 0, 2, 2])
    outputs = torch.eye(4)[[0, 1, 2, 3]]  # one 0 taken for 1, one 2 for 3, which no label is
    value, _ = evaluated(ALL["macro_f1"], labels, outputs, batch_size=4)
    assert value == pytest.approx(2 / 3)


def test_a_broken_output_is_never_right():
    outputs = torch.eye(3)
    outputs[1, 2] = torch.nan
    assert_array_equal(predicted(outputs), [0, -1, 2])
    labels = np.arange(3)
    assert evaluated(ALL["top1"], labels, outputs, batch_size=2)[0] == 2 / 3
    assert evaluated(ALL["macro_f1"], labels, outputs, batch_size=2)[0] == pytest.approx(2 / 3)
    # Not even where the float network's output is broken too.
    value, bounds = evaluated(ALL["agreement"], labels, outputs, batch_size=1)
    assert (value, bounds) == (2 / 3, [2 / 3] * 4)


@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
@settings(deadline=None, max_examples=50)
def test_outputs_of_the_same_probabilities_do_not_diverge(seed, shift):
    labels, outputs = drawn(seed)
    value, bounds = evaluated(
        ALL["neg_divergence"], labels, outputs + shift, batch_size=10, float_outputs=outputs
    )
    assert -1e-9 < value <= 0
    assert bounds[0] == 0
    assert evaluated(ALL["neg_divergence"], labels, outputs, batch_size=10)[0] == 0


def test_a_divergence_of_no_finite_value_is_refused():
    outputs = torch.eye(3)
    outputs[1, 1] = torch.nan
    with pytest.raises(EvaluationError, match="not finite"):
        evaluated(ALL["neg_divergence"], np.arange(3), outputs, batch_size=3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_cross_entropy_of_no_finite_value_is_refused(bad):
    outputs = torch.eye(3)
    outputs[1, 1] = bad
    with pytest.raises(EvaluationError, match="not finite"):
        evaluated(ALL["neg_cross_entropy"], np.arange(3), outputs, batch_size=3)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda o, t: o.sum(), r"shape \(\)"),
        (lambda o, t: o[:, 0] * torch.nan, "one finite score"),
        (lambda o, t: torch.full((len(o),), 2.0), "above its stated best 1.0"),
    ],
)
def test_a_user_function_that_breaks_its_word_is_refused(score, message):
    score.best = 1.0
    with pytest.raises(EvaluationError, match=message):
        evaluated(MeanScore("mine", score), np.arange(3), torch.eye(3), batch_size=3)


def test_a_user_function_without_a_best_score_is_never_stopped():
    _, bounds = evaluated(
        MeanScore("mine", lambda o, t: o[:, 0]), np.arange(3), torch.eye(3), batch_size=1
    )
    assert bounds == [np.inf, np.inf, np.inf, 1 / 3]


def test_metrics_are_found_by_name_or_reference():
    assert load_metric("macro_f1").name == "macro_f1"
    assert load_metric("torch.nn.functional:cosine_similarity").reference is None
    with pytest.raises(SpecError, match="no metric 'top'; nearest: 'top1'"):
        load_metric("top")
    with pytest.raises(SpecError, match="cannot import 'no_such'"):
        load_metric("no_such:thing")
