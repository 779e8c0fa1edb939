"""What is drawn for a batch: the function of (seed, epoch, step, device) that it must be."""
from types import SimpleNamespace

import numpy as np
import pytest

from training.loop import TrainStep
from training.mixing import Mixing, cutmix, mixup


def test_the_share_of_a_blend_is_drawn_from_beta():
    mix = mixup(0.4, np.random.default_rng(1), 8, 8)
    assert mix.box is None and mix.share == np.random.default_rng(1).beta(0.4, 0.4)


def test_a_box_is_inside_and_the_share_is_what_it_leaves():
    seen = set()
    for seed in range(40):
        mix = cutmix(1.0, np.random.default_rng(seed), 8, 12)
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 8 and 0 <= left <= right <= 12
        area = (bottom - top) * (right - left)
        assert mix.share == pytest.approx(1 - area / 96)
        # Cut off at no edge, a box has the image's proportions and its share of the area.
        side = np.sqrt(1 - np.random.default_rng(seed).beta(1.0, 1.0))
        assert bottom - top <= side * 8 and right - left <= side * 12
        seen.add(area)
    assert len(seen) > 10 and max(seen) > 48


def test_both_ways_take_turns():
    mixing = Mixing(1.0, 1.0, epochs=1)
    boxes = [mixing.draw(0, step, 0, 8, 8).box is not None for step in range(40)]
    assert 8 < sum(boxes) < 32


@pytest.mark.parametrize("used, alphas", [(False, (0, 0)), (True, (0.1, 0)), (True, (0, 0.1))])
def test_used(used, alphas):
    mixing = Mixing(*alphas, epochs=1)
    assert mixing.used is used and (mixing.draw(0, 0, 0, 8, 8) is not None) is used


def test_mixing_ends_with_its_epochs():
    mixing = Mixing(1.0, epochs=2)
    assert [mixing.draw(epoch, 0, 0, 8, 8) is None for epoch in range(4)] == [
        False, False, True, True]


def test_a_worker_s_devices_are_counted_after_those_of_the_workers_before():
    given = []
    mixing = Mixing(1.0, epochs=1)
    for rank in (0, 1):
        engine = SimpleNamespace(workers=SimpleNamespace(rank=rank),
                                 learn=lambda *_, mixes: given.extend(mixes))
        TrainStep(engine, [None], lambda number: 0.1, mixing, devices=2)(
            0, 0, np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int32))
    assert given == [mixing.draw(0, 0, device, 8, 8) for device in range(4)]


def test_every_step_epoch_device_and_seed_has_its_own():
    base = dict(epoch=1, step=2, device=3)
    shares = {Mixing(1.0, epochs=9, seed=seed).draw(**{**base, **change}, height=8, width=8).share
              for seed, change in [(0, {}), (1, {}), (0, {"epoch": 2}), (0, {"step": 3}),
                                   (0, {"device": 4})]}
    assert len(shares) == 5
    again = Mixing(1.0, epochs=9).draw(**base, height=8, width=8)
    assert again == Mixing(1.0, epochs=9).draw(**base, height=8, width=8)
