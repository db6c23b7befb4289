import numpy as np
import pytest
import torch

from moeash.errors import TrainingError
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import SAVE_EVERY_S, order_of

STAGES = (7, 0, 5)


class Sum:
    """A trainee that adds up what it sees, weighed so that the order counts, and its own draws."""

    def __init__(self, stages=STAGES, bad_at=None, stop_at=None):
        self.stages = stages
        self.bad_at, self.stop_at = bad_at, stop_at
        self.total = torch.zeros(3)
        self.seen, self.steps, self.heard = [], [], []

    def begin(self, stage):
        self.heard.append(("begin", stage))

    def step(self, seen):
        if seen.step == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(seen.labels.clone())
        self.steps.append(seen.step)
        draw = torch.rand(1, generator=seen.noise)
        self.total[0] = self.total[0] / 3 + seen.inputs.sum()
        self.total[1] += draw[0]
        return torch.tensor(float("nan") if seen.step == self.bad_at else 0.5)

    def end(self, stage):
        self.heard.append(("end", stage))
        self.total[2] = self.total[2] * 2 + stage + 1

    def tensors(self):
        return {"total": self.total}

    def load(self, tensors):
        self.total = tensors["total"].clone()

    def words(self):
        return "adding"


class Clock:
    """Each look at it is so many seconds later."""

    def __init__(self, step_s):
        self.now, self.step_s = 0.0, step_s

    def __call__(self):
        self.now += self.step_s
        return self.now


def test_every_image_is_seen_once_a_pass_and_each_pass_has_an_order_of_its_own(session, splits):
    n = len(splits["train"])
    assert sorted(order_of(n, 3, 0)) == list(range(n))
    assert list(order_of(n, 3, 0)) == list(order_of(n, 3, 0))
    assert not np.array_equal(order_of(n, 3, 0), order_of(n, 3, 1))
    assert not np.array_equal(order_of(n, 3, 0), order_of(n, 4, 0))
    one = session()
    trainee = Sum((2 * one.steps_an_epoch,))
    one.train(trainee)
    labels = torch.tensor(splits["train"].labels)
    for epoch in (0, 1):
        seen = torch.cat(trainee.seen[epoch * one.steps_an_epoch :][: one.steps_an_epoch])
        want = labels[torch.from_numpy(order_of(n, 5, epoch)[: seen.numel()])]
        assert torch.equal(seen, want)


def test_stages_begin_and_end_in_turn_and_steps_are_counted_through(session):
    trainee = Sum()
    session().train(trainee)
    assert trainee.steps == list(range(12))
    assert trainee.heard == [(what, stage) for stage in range(3) for what in ("begin", "end")]


@pytest.mark.parametrize("stop_at", [0, 3, 6, 7, 9, 11])
@pytest.mark.parametrize("step_s", [0.0, SAVE_EVERY_S])
def test_what_was_stopped_anywhere_ends_with_the_same_bits(session, tmp_path, stop_at, step_s):
    whole = Sum()
    session(TrainingOptions(batch_size=64, augment=("flips", "crops"))).train(whole)
    checkpoint = Checkpoint(tmp_path / "kept", "d" * 32)

    def go(trainee):
        options = TrainingOptions(batch_size=64, augment=("flips", "crops"))
        session(options, checkpoint=checkpoint, clock=Clock(step_s)).train(trainee)

    with pytest.raises(KeyboardInterrupt):
        go(Sum(stop_at=stop_at))
    again = Sum()
    go(again)
    assert torch.equal(again.total, whole.total)
    stage_began = 7 if stop_at >= 7 else 0
    assert again.steps[0] == (stop_at if step_s else stage_began)
    nothing_left = Sum()
    go(nothing_left)
    assert nothing_left.steps == []
    assert torch.equal(nothing_left.total, whole.total)


def test_a_damaged_or_foreign_file_costs_time_and_nothing_else(session, tmp_path):
    whole = Sum()
    session().train(whole)
    first = Checkpoint(tmp_path, "1" * 32)
    session(checkpoint=first).train(Sum())
    second = Checkpoint(tmp_path, "2" * 32)
    second.path.write_bytes(first.path.read_bytes())
    third = Checkpoint(tmp_path, "3" * 32)
    third.path.write_bytes(first.path.read_bytes()[:-3])
    for checkpoint in (second, third):
        again = Sum()
        session(checkpoint=checkpoint).train(again)
        assert again.steps == list(range(12))
        assert torch.equal(again.total, whole.total)


@pytest.mark.parametrize("bad_at", [2, 8])
def test_a_loss_that_is_no_number_ends_the_training_and_what_was_saved_stays_good(
    session, tmp_path, bad_at
):
    checkpoint = Checkpoint(tmp_path, "d" * 32)
    with pytest.raises(TrainingError, match=r"diverged in stage .* nan; lower the rate"):
        session(checkpoint=checkpoint).train(Sum(bad_at=bad_at))
    saved = checkpoint.read()
    if bad_at < 7:
        assert saved is None
    else:
        assert (saved.stage, saved.done) == (2, 0)
        assert saved.tensors["total"].isfinite().all()


def test_progress_tells_stage_state_and_loss(session):
    told = []
    session(progress=lambda *said: told.append(said)).train(Sum((11,)))
    assert told[0] == ("training: adding", 0, 11)
    assert told[-1] == ("training: adding, loss 0.5", 10, 11)
    told.clear()
    session(progress=lambda *said: told.append(said)).train(Sum())
    assert [what.split(":")[0] for what, *_ in told][-1] == "training, stage 3 of 3"


def test_images_that_fill_no_batch_are_one(session):
    one = session(TrainingOptions(batch_size=100_000))
    assert one.steps_an_epoch == 1
    trainee = Sum((2,))
    one.train(trainee)
    assert [len(labels) for labels in trainee.seen] == [len(one.images)] * 2
