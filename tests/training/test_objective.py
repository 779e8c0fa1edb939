import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from training.objective import Distillation, Objective, cutmix, mixup


def _batch(n=6, classes=4):
    rng = np.random.default_rng(0)
    x = nd.array(rng.normal(size=(n, 3, 8, 8)))
    return x, nd.array(np.arange(n) % classes, dtype="int32")


def _rng():
    return np.random.default_rng(1)


def test_plain_cross_entropy():
    x, label = _batch()
    objective = Objective(4)
    same_x, target = objective.prepare(x, label, rng=None)
    assert same_x is x and target is label
    logits = nd.array(np.random.default_rng(2).normal(size=(6, 4)))
    probabilities = nd.softmax(logits).asnumpy()
    expected = -np.log(probabilities[np.arange(6), label.asnumpy()])
    np.testing.assert_allclose(objective(logits, target).asnumpy(), expected, rtol=1e-5)


def test_label_smoothing_spreads_its_share():
    x, label = _batch()
    _, target = Objective(4, label_smoothing=0.2).prepare(x, label, rng=None)
    target = target.asnumpy()
    np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(target[np.arange(6), label.asnumpy()], 0.85, rtol=1e-6)
    np.testing.assert_allclose(target.min(axis=1), 0.05, rtol=1e-6)


def test_mixup_blends_images_and_targets_alike():
    x, label = _batch()
    target = nd.one_hot(label, 4)
    mixed_x, mixed = mixup(x, target, 0.4, _rng())
    share = _rng().beta(0.4, 0.4)
    np.testing.assert_allclose(mixed_x.asnumpy(),
                               share * x.asnumpy() + (1 - share) * x.asnumpy()[::-1], rtol=1e-4,
                               atol=1e-6)
    np.testing.assert_allclose(mixed.asnumpy(), share * target.asnumpy()
                               + (1 - share) * target.asnumpy()[::-1], rtol=1e-5, atol=1e-6)


def test_cutmix_pastes_a_box_and_weighs_by_its_area():
    x, label = _batch()
    target = nd.one_hot(label, 4)
    seen = set()
    for seed in range(20):
        mixed_x, mixed = cutmix(x, target, 1.0, np.random.default_rng(seed))
        kept = (mixed_x == x).asnumpy().astype(bool).all(axis=1)                       # (N, H, W)
        pasted = (mixed_x == x[::-1]).asnumpy().astype(bool).all(axis=1)
        assert (kept | pasted).all()
        share = kept[0].mean()
        assert all((k == kept[0]).all() for k in kept)
        rows, columns = np.where(~kept[0])
        if len(rows):
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert box == len(rows)
        np.testing.assert_allclose(mixed.asnumpy(), share * target.asnumpy()
                                   + (1 - share) * target.asnumpy()[::-1], rtol=1e-5, atol=1e-6)
        seen.add(len(rows))
    assert len(seen) > 3


def test_the_loss_is_float32_whatever_the_logits():
    objective = Objective(4, mixup_alpha=0.2)
    x, label = _batch()
    _, target = objective.prepare(x, label, _rng)
    assert objective(nd.ones((6, 4), dtype="float16"), target).dtype == np.float32


def test_both_mixers_take_turns():
    objective = Objective(4, mixup_alpha=1.0, cutmix_alpha=1.0)
    x, label = _batch()
    blended = 0
    for seed in range(24):
        mixed, _ = objective.prepare(x, label, lambda seed=seed: np.random.default_rng(seed))
        exact = ((mixed == x) + (mixed == x[::-1])).asnumpy().astype(bool).all()
        blended += not exact
    assert 4 < blended < 20


def test_gradient_of_smoothed_targets():
    objective = Objective(3, label_smoothing=0.3)
    _, target = objective.prepare(nd.zeros((1, 3, 2, 2)), nd.array([1], dtype="int32"), None)
    logits = nd.array([[0.5, -1.0, 2.0]])
    logits.attach_grad()
    with mx.autograd.record():
        loss = objective(logits, target)
    loss.backward()
    np.testing.assert_allclose(logits.grad.asnumpy(),
                               nd.softmax(logits).asnumpy() - [[0.1, 0.8, 0.1]], atol=1e-5)


@pytest.mark.parametrize("soft, options", [(False, {}), (True, {"label_smoothing": 0.1}),
                                           (True, {"mixup_alpha": 0.1})])
def test_soft(soft, options):
    assert Objective(4, **options).soft is soft


def test_mixing_ends_with_its_epochs():
    x, label = _batch()
    objective = Objective(4, mixup_alpha=1.0, mix_epochs=2)
    for epoch, mixed in ((0, True), (1, True), (2, False)):
        changed, target = objective.prepare(x, label, _rng, epoch)
        assert (changed is not x) == mixed
        assert (target.max(axis=1).asnumpy().min() < 1) == mixed


def test_distillation_is_its_formula_and_leaves_the_teacher_alone():
    x, label = _batch()
    teacher = gluon.nn.HybridSequential()
    teacher.add(gluon.nn.BatchNorm(in_channels=3), gluon.nn.Flatten(),
                gluon.nn.Dense(4, in_units=3 * 64), gluon.nn.Dropout(0.5))
    teacher.initialize(mx.init.Normal(0.1))
    before = [p.data().asnumpy() for p in teacher.collect_params().values()]
    objective = Distillation(4, teacher, temperature=3.0, hard_weight=0.25, label_smoothing=0.1)
    logits = nd.array(np.random.default_rng(2).normal(size=(6, 4)))
    logits.attach_grad()
    with autograd.record():    # the loop prepares outside; inside, the teacher still predicts
        _, target = objective.prepare(x, label, rng=None)
        loss = objective(logits, target)
    loss.backward()

    def softmax(z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    shares = softmax(teacher(x).asnumpy() / 3)    # no dropout, running statistics
    soft = -(shares * np.log(softmax(logits.asnumpy() / 3))).sum(axis=1)
    hard = -(target[0].asnumpy() * np.log(softmax(logits.asnumpy()))).sum(axis=1)
    np.testing.assert_allclose(loss.asnumpy(), 0.25 * hard + 0.75 * 9 * soft, rtol=1e-5)
    expected = (0.25 * (softmax(logits.asnumpy()) - target[0].asnumpy())
                + 0.75 * 3 * (softmax(logits.asnumpy() / 3) - shares))
    np.testing.assert_allclose(logits.grad.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    for one, two in zip(before, teacher.collect_params().values()):
        np.testing.assert_array_equal(one, two.data().asnumpy())
