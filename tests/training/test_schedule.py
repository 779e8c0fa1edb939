import pytest

from training.schedule import MODES, Plateau, Schedule, proportional_milestones


def test_step():
    schedule = Schedule("step", 0.2, 400, milestones=(300, 350))
    assert [schedule(s) for s in (0, 299, 300, 349, 350, 399)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_cosine():
    schedule = Schedule("cosine", 0.2, 100, final_lr=0.02)
    assert [schedule(s) for s in (0, 50, 100)] == pytest.approx([0.2, 0.11, 0.02])
    rates = [schedule(s) for s in range(101)]
    assert rates == sorted(rates, reverse=True)


def test_poly():
    schedule = Schedule("poly", 1.0, 10, power=2)
    assert [schedule(s) for s in (0, 5, 10)] == pytest.approx([1.0, 0.25, 0.0])


@pytest.mark.parametrize("mode", ["constant", "plateau"])
def test_constant(mode):
    assert {Schedule(mode, 0.1, 10)(s) for s in range(10)} == {0.1}


@pytest.mark.parametrize("mode", MODES)
def test_warm_up_is_linear_and_ends_at_the_rate(mode):
    schedule = Schedule(mode, 0.4, 1000, warmup_steps=10, warmup_lr=0.1, milestones=(500,))
    assert [schedule(s) for s in (0, 5)] == pytest.approx([0.1, 0.25])
    assert schedule(10) == pytest.approx(0.4)


def test_cosine_spans_what_the_warm_up_leaves():
    schedule = Schedule("cosine", 1.0, 110, warmup_steps=10)
    assert schedule(60) == pytest.approx(0.5)


def test_milestones_keep_their_share():
    assert proportional_milestones((300, 350), 400, 40) == (30, 35)
    assert proportional_milestones((300, 350), 400, 400) == (300, 350)


def test_plateau_falls_after_its_patience():
    plateau = Plateau(patience=1, decay=0.5)
    factors = []
    for improved in (True, False, False, True, False, False, False, False):
        plateau.update(improved)
        factors.append(plateau.factor)
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("arguments, message", [
    (dict(mode="cosinus", lr=0.1, total_steps=10), "lr mode must be one of step, cosine"),
    (dict(mode="step", lr=0.1, total_steps=10, warmup_steps=10), "leaves nothing of a run of 10"),
])
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)
