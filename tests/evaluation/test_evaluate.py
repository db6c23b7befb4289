import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from moeash.codec.container import decode, encode
from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe, Refine, Start
from moeash.data.options import DataOptions
from moeash.data.splits import Split
from moeash.errors import DataError, EvaluationError, InputError, SpecError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.loading.sources import load_network
from tests.buffers import placed
from tests.counting import Stored
from tests.digits import digits_spec

ELSEWHERE = DataOptions("npz", root="/nowhere.npz", splits={"search": {}})
NOTHING = Archive(("size_bytes",))


def task(module=None, **changes):
    made = digits_spec(**changes).task()
    return replace(made, module=module)


def function_task(module, evaluate):
    made = task(module)
    return replace(made, data=None, evaluate=evaluate, n_threads=None)


def job(k, **options):
    return Job(Recipe.of({"k": k}), **options)


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("coder", ["ans", "huffman"])
@pytest.mark.parametrize("kept", ["float16", "float32"])
def test_the_size_told_is_that_of_the_file(coder, kept):
    evaluator = Evaluator(task(codec={"coder": coder, "kept": kept}))
    for one in (job(3), job(40), Job(Recipe.of({"k": 6}, Merge((1, 3, 2))))):
        outcome = evaluator.evaluate(one, NOTHING)
        shared = evaluator.compressor.build(one.recipe)
        notes = evaluator.task.notes
        assert outcome.sizes.size_bytes == len(encode(shared, coder=coder, notes=notes))
    evaluator.close()


def test_what_is_measured_is_the_network_that_was_built():
    module = load_network("digits-cnn")
    evaluator = Evaluator(task(module))
    outcome = evaluator.evaluate(job(7), NOTHING)
    decoded = evaluator.compressor.build(job(7).recipe).decoded()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, torch.tensor(decoded[name])), name
    split = evaluator.splits["search"]
    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in split.batches(11))
    assert outcome.metric == right / len(split)
    evaluator.close()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_closing_hands_back_weights_modes_and_threads(threads):
    module = load_network("digits-cnn").train()
    next(module.children()).eval()
    modes = [part.training for part in module.modules()]
    before, n_threads = state_of(module), torch.get_num_threads()
    evaluator = Evaluator(task(module, evaluation={"threads": threads}))
    assert not any(part.training for part in module.modules())
    assert torch.get_num_threads() == threads
    evaluator.evaluate(job(2), NOTHING)
    assert not same(state_of(module), before)
    evaluator.close()
    assert same(state_of(module), before)
    assert [part.training for part in module.modules()] == modes
    assert torch.get_num_threads() == n_threads


def test_a_task_that_cannot_be_loaded_leaves_the_module_as_it_was():
    module = load_network("digits-cnn").train()
    with pytest.raises(EvaluationError, match="returned nan"):
        Evaluator(function_task(module, lambda module: np.nan))
    assert all(part.training for part in module.modules())


def test_a_raising_candidate_is_a_failed_outcome():
    module = load_network("digits-cnn")
    calls = 0

    def evaluate(module):
        nonlocal calls
        calls += 1
        module(torch.zeros(1, 1, 8, 8))
        # The float network, and its BatchNorms as two vectors, come first.
        if calls == 4:
            raise ValueError("first line\nsecond line")
        return np.nan if calls == 5 else 1.0

    evaluator = Evaluator(function_task(module, evaluate))
    outcomes = [evaluator.evaluate(job(k), NOTHING) for k in (4, 5, 6, 7)]
    evaluator.close()
    assert [o.status for o in outcomes] == ["complete", "failed", "failed", "complete"]
    assert outcomes[1].error == "ValueError: first line"
    assert "returned nan" in outcomes[2].error
    assert outcomes[1].sizes is not None and outcomes[1].fingerprint is None


@pytest.mark.slow
def test_a_candidate_that_outputs_nan_fails_or_counts_as_wrong():
    class Breaks(nn.Module):
        """Gives NaN as soon as its weights are not its own."""

        def __init__(self):
            super().__init__()
            self.inner = load_network("digits-cnn")
            self.float = state_of(self.inner)

        def forward(self, x):
            broken = not same(state_of(self.inner), self.float)
            return self.inner(x) * (torch.nan if broken else 1.0)

    entropy = Evaluator(task(Breaks(), evaluation={"metric": "neg_cross_entropy"}))
    outcome = entropy.evaluate(job(8), NOTHING)
    assert outcome.status == "failed" and "not finite" in outcome.error
    top1 = Evaluator(task(Breaks()))
    assert top1.evaluate(job(8), NOTHING).metric == 0.0


def test_a_function_that_writes_to_the_module_spoils_neither_the_next_candidate_nor_the_user():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 8)
            self.bn = nn.BatchNorm1d(8)

    module = Net()
    before = state_of(module)

    def recalibrates(module):
        mean = float(module.bn.running_mean.sum())
        module.bn.running_mean += 1
        with torch.no_grad():
            module.linear.bias += 1
        return mean

    evaluator = Evaluator(function_task(module, recalibrates))
    assert [evaluator.evaluate(job(k), NOTHING).metric for k in (3, 4, 3)] == [0.0, 0.0, 0.0]
    evaluator.close()
    assert same(state_of(module), before)


class Moves(nn.Module):
    """A network whose forward pass moves its own tensors."""

    def __init__(self, how):
        super().__init__()
        self.inner = load_network("digits-cnn")
        self.how = how

    def forward(self, x):
        self.how(self.inner)
        return self.inner(x.to(next(self.inner.parameters()).dtype)).float()


def replaces_data(module):
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize(
    "how",
    [replaces_data, lambda m: m.to(memory_format=torch.channels_last), lambda m: m.double()],
    ids=["data", "channels_last", "double"],
)
def test_a_forward_pass_that_moves_tensors_is_refused_and_the_module_keeps_its_values(how):
    module = Moves(how)
    before = state_of(module)
    with pytest.raises(EvaluationError, match=r"forward of Moves has moved 'inner\."):
        Evaluator(task(module))
    after = module.state_dict()
    assert all(
        torch.equal(after[name], value.to(after[name].dtype)) for name, value in before.items()
    )


def test_a_forward_pass_that_moves_tensors_only_later_fails_its_candidate():
    moves = []
    module = Moves(lambda inner: replaces_data(inner) if moves else None)
    evaluator = Evaluator(task(module))
    assert evaluator.evaluate(job(17), NOTHING).status == "complete"
    moves.append(True)
    for k in (2, 17):
        outcome = evaluator.evaluate(job(k), NOTHING)
        assert outcome.status == "failed" and "has moved 'inner." in outcome.error
    evaluator.close()
    assert same(state_of(module.inner), state_of(load_network("digits-cnn")))


def test_stopping_needs_a_reason():
    evaluator = Evaluator(task())
    full = evaluator.evaluate(job(4), NOTHING)
    assert full.status == "complete" and full.n_batches == 5
    better = Outcome("complete", 0.99, 0.99, replace(full.sizes, size_bytes=1), "f", 5, 0.0)
    stopped = evaluator.evaluate(job(4), Archive.of(("size_bytes",), [better]))
    assert stopped.status == "stopped" and stopped.n_batches < 5
    assert stopped.metric is None and stopped.fingerprint is None
    assert full.metric <= stopped.bound < 0.99 and stopped.sizes == full.sizes
    larger = Outcome("complete", 0.99, 0.99, replace(full.sizes, size_bytes=10**6), "f", 5, 0.0)
    assert evaluator.evaluate(job(4), Archive.of(("size_bytes",), [larger])).status == "complete"
    below = evaluator.evaluate(job(4, floor=0.95), NOTHING)
    assert below.status == "stopped" and full.metric <= below.bound < 0.95
    assert evaluator.evaluate(job(4, floor=full.metric), NOTHING).status == "complete"
    evaluator.close()


def test_a_task_measures_images_or_a_function():
    with pytest.raises(InputError, match="either images"):
        replace(task(), evaluate=lambda module: 1.0)
    with pytest.raises(SpecError, match=r"no search split; add \[data.splits.search\]"):
        Evaluator(task(data={"splits": {"search": None}}))


def test_sizes_are_what_the_objectives_name():
    evaluator = Evaluator(task())
    shared = evaluator.compressor.build(job(9).recipe)
    sizes = evaluator.sizes(shared)
    assert isinstance(sizes, Sizes) and sizes.entries == shared.n_used_entries <= 9
    assert 0 < sizes.bits_per_weight < np.log2(9) + 0.2
    evaluator.close()


def test_entries_that_no_weight_uses_are_not_counted():
    method = {"name": "feedback", "k": [4, 99], "images": 60, "sketches": 1, "trellis": 4}
    calibration = {"splits": {"calibration": {"part": "all", "count": 60, "seed": 1}}}
    evaluator = Evaluator(task(method=method, data=calibration, codec={"coder": "adaptive"}))
    one = Job(Recipe.of({"k": 99, "rate": 0.1}))
    shared = evaluator.compressor.build(one.recipe)
    used = {(t.codebook, int(i)) for t in shared.shared for i in np.unique(t.indices)}
    assert len(used) < shared.n_entries
    assert evaluator.evaluate(one, NOTHING).sizes.entries == len(used)
    evaluator.close()


@pytest.mark.parametrize("on_device", [False, True])
def test_the_file_of_a_solution_too_dear_to_make_again_comes_with_its_outcome(on_device):
    method = Stored(UniformOptions(k=(2, 64)))
    evaluator = Evaluator(replace(task(), method=method), on_device=on_device)
    outcome = evaluator.evaluate(job(9), NOTHING)
    assert decode(outcome.artifact).shared.fingerprint() == outcome.fingerprint
    assert len(outcome.artifact) == outcome.sizes.size_bytes
    assert evaluator.evaluate(job(4, floor=0.99), NOTHING).artifact is None
    method.compressed.clear()
    again = evaluator.evaluate(job(9, start=Start(0, outcome.artifact)), NOTHING)
    assert again.fingerprint == outcome.fingerprint and not method.compressed
    evaluator.close()
    plain = Evaluator(task(), on_device=on_device)
    assert plain.evaluate(job(9), NOTHING).artifact is None
    plain.close()


def as_shared(common):
    """A copy as it comes out of a store that all processes of a node map: read-only, aligned."""
    buffers = []
    plain = pickle.dumps(common, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(plain, buffers=[placed(buffer.raw()) for buffer in buffers])


def test_what_one_evaluator_has_made_the_others_neither_make_nor_read():
    first = Evaluator(task())
    wanted = [job(4), job(37), job(4, floor=0.95)]
    expected = [replace(first.evaluate(j, NOTHING), duration_s=0.0) for j in wanted]
    common = as_shared(first.common())
    assert not common.images.flags.writeable and common.images.shape == (200, 1, 8, 8)
    elsewhere = replace(task(), data=ELSEWHERE)
    other = Evaluator(elsewhere, common=common)
    assert other.assessment.baseline == first.assessment.baseline
    assert other.data_fingerprint == first.splits["search"].fingerprint()
    assert other.compressor.network.state[0].values is common.groundwork.state[0].values
    assert [replace(other.evaluate(j, NOTHING), duration_s=0.0) for j in wanted] == expected
    first.use_shared(common)
    assert not first.splits and first.common().images.ctypes.data == common.images.ctypes.data
    assert [replace(first.evaluate(j, NOTHING), duration_s=0.0) for j in wanted] == expected
    first.close()
    other.close()


def test_what_was_made_from_other_images_is_refused():
    evaluator = Evaluator(task())
    splits = {"search": {"part": "all", "count": 200, "seed": 1}}
    other = Evaluator(replace(task(), data=replace(task().data, splits=splits)))
    with pytest.raises(
        EvaluationError, match=r"from other images .*do all nodes see the same data"
    ):
        evaluator.use_shared(other.common())
    assert evaluator.splits  # its own, as before
    evaluator.close()
    other.close()


def test_a_step_that_no_grid_takes_fails_the_candidate_and_is_named():
    evaluator = Evaluator(task(), on_device=True)
    outcome = evaluator.evaluate(Job(Recipe.of({"k": 9}, Refine())), NOTHING)
    assert outcome.status == "failed"
    assert "a method on a grid takes merges only, got the step refined" in outcome.error
    evaluator.close()


def test_streamed_images_are_read_by_everybody(monkeypatch):
    monkeypatch.setattr(Split, "in_memory", False)
    first = Evaluator(task())
    common = as_shared(first.common())
    assert common.images is None
    other = Evaluator(task(), common=common)
    assert other.splits and other.data_fingerprint == first.data_fingerprint
    assert other.evaluate(job(9), NOTHING).metric == first.evaluate(job(9), NOTHING).metric
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        Evaluator(replace(task(), data=ELSEWHERE), common=common)
    first.close()
    other.close()


@pytest.mark.parametrize(
    ("error", "retriable"), [(MemoryError, True), (OSError, True), (ValueError, False)]
)
def test_what_a_candidate_cannot_help_may_be_tried_again(error, retriable):
    module = load_network("digits-cnn")
    evaluator = Evaluator(task(module))
    module.register_forward_pre_hook(lambda module, inputs: (_ for _ in ()).throw(error("no")))
    outcome = evaluator.evaluate(job(4), NOTHING)
    assert (outcome.status, outcome.retriable) == ("failed", retriable)
    evaluator.close()
