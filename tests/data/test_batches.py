"""Batches are a function of (seed, epoch, step), and their thread leaves nothing behind."""
import gc
import threading
import time

import numpy as np
import pytest

from data.batches import Batches, Preparation, _ahead
from data.dataset import ImageSet
from tests.scripts import wait_for


@pytest.fixture
def image_set():
    images = np.random.RandomState(0).randint(0, 256, (107, 3, 32, 32)).astype(np.uint8)
    return ImageSet(images, (np.arange(107) % 10).astype(np.int32))


def epoch(batches, number=0, start=0):
    return list(batches.epoch(number, start))


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b) for one, two in zip(first, second) for a, b in zip(one, two))


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def wait_for_no_threads(seconds=5):
    deadline = time.monotonic() + seconds
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return prefetch_threads() == []


def test_kinds_and_shapes(image_set):
    batches = Batches(image_set, 10)
    result = epoch(batches)
    assert len(result) == len(batches) == 10
    assert batches.num_images == 100
    for images, labels, indices in result:
        assert images.shape == (10, 3, 32, 32)
        assert images.dtype == np.uint8 and images.flags.c_contiguous
        assert labels.shape == (10,) and labels.dtype == np.int32
        assert indices.shape == (10,) and indices.dtype == np.int64
        assert np.array_equal(labels, image_set.labels[indices])


def test_training_visits_no_image_twice_in_random_order(image_set):
    batches = Batches(image_set, 10)
    orders = [np.concatenate([indices for _, _, indices in epoch(batches, number)])
              for number in range(2)]
    for order in orders:
        assert len(set(order.tolist())) == 100
        assert order.tolist() != sorted(order)
    assert not np.array_equal(*orders)


def test_evaluation_visits_every_image_once_as_it_is(image_set):
    batches = Batches(image_set, 10, train=False)
    result = epoch(batches)
    assert len(result) == len(batches) == 11
    assert batches.num_images == 107
    assert np.array_equal(np.concatenate([images for images, _, _ in result]), image_set.images)
    assert np.array_equal(np.concatenate([indices for _, _, indices in result]), np.arange(107))


@pytest.mark.parametrize("prefetch", [0, 1, 2, 20])
def test_a_batch_follows_from_seed_epoch_and_step(prefetch, image_set):
    expected = epoch(Batches(image_set, 10, seed=3, preparation=Preparation(prefetch=0)), 5)
    how = Preparation(prefetch=prefetch)
    batches = Batches(image_set, 10, seed=3, preparation=how)
    epoch(batches, 4)
    assert same(epoch(batches, 5), expected)
    assert same(epoch(batches, 5, start=7), expected[7:])
    assert epoch(batches, 5, start=10) == []
    assert not same(epoch(batches, 6), expected)
    assert not same(epoch(Batches(image_set, 10, seed=4, preparation=how), 5), expected)


def test_every_step_crops_anew(image_set):
    alike = ImageSet(np.repeat(image_set.images[:1], 40, axis=0), np.zeros(40, np.int32))
    (first, _, _), (second, _, _) = epoch(Batches(alike, 20))
    assert not np.array_equal(first, second)


def test_the_batch_never_changes(image_set):
    """The first of a seed's indices, so that a new NumPy cannot change a run unnoticed."""
    _, _, indices = next(Batches(image_set, 8, seed=1).epoch(2))
    assert indices.tolist() == [14, 70, 73, 78, 77, 58, 51, 0]


@pytest.mark.parametrize("padding", ["black", "mean", "reflect"])
def test_augmentation(padding, image_set):
    plain = epoch(Batches(image_set, 50, preparation=Preparation(augment=False)))
    augmented = epoch(Batches(image_set, 50, preparation=Preparation(padding, (0.5, 0.5, 0.5))))
    for (before, _, one), (after, _, two) in zip(plain, augmented):
        assert np.array_equal(one, two)
        assert np.array_equal(before, image_set.images[one])
        assert not np.array_equal(before, after)


def test_workers_share_the_batches_of_one(image_set):
    one = epoch(Batches(image_set, 20), 3)
    workers = [epoch(Batches(image_set, 5, shard=(index, 4)), 3) for index in range(4)]
    assert [len(worker) for worker in workers] == [len(one)] * 4
    for step, batch in enumerate(one):
        parts = [worker[step] for worker in workers]
        joined = [np.concatenate(arrays) for arrays in zip(*parts)]
        assert same([joined], [batch])


def test_workers_share_the_evaluation(image_set):
    workers = [Batches(image_set, 10, train=False, shard=(index, 4)) for index in range(4)]
    seen = np.concatenate([indices for worker in workers for _, _, indices in epoch(worker)])
    assert np.array_equal(seen, np.arange(107))
    assert sum(worker.num_images for worker in workers) == 107
    assert [len(epoch(worker)) for worker in workers] == [len(worker) for worker in workers]


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 108}, "107 training images do not fill one batch of 108;"),
    ({"batch_size": 30, "shard": (0, 4)}, "one batch of 30 for each of 4 workers"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 10, "seed": -1}, "seed is -1"),
    ({"batch_size": 10, "shard": (2, 2)}, "shard is"),
])
def test_bad_options(options, message, image_set):
    with pytest.raises(ValueError, match=message):
        Batches(image_set, **options)


@pytest.mark.parametrize("settings, message", [
    ({"prefetch": -1}, "prefetch is -1"),
    ({"padding": "white"}, "unknown padding 'white'.*black, mean, reflect"),
    ({"padding": "mean"}, "needs the mean")])
def test_bad_preparation(settings, message):
    with pytest.raises(ValueError, match=message):
        Preparation(**settings)


@pytest.mark.parametrize("arguments, message", [
    ((-1,), "epoch is -1"), ((0, -1), "start is -1"), ((0, 11), "start is 11"),
])
def test_bad_positions_are_refused_at_once(arguments, message, image_set):
    with pytest.raises(ValueError, match=message):
        Batches(image_set, 10).epoch(*arguments)


def test_the_thread_ends_with_the_epoch(image_set):
    epoch(Batches(image_set, 10))
    assert prefetch_threads() == []


def test_the_thread_ends_when_the_iterator_is_closed(image_set):
    iterator = Batches(image_set, 10).epoch(0)
    next(iterator)
    assert len(prefetch_threads()) == 1
    iterator.close()
    assert prefetch_threads() == []


def test_the_thread_ends_when_the_loop_is_left(image_set):
    for _ in Batches(image_set, 10).epoch(0):
        break
    gc.collect()
    assert wait_for_no_threads()


def test_the_thread_ends_when_the_consumer_fails(image_set):
    def consume():
        for _ in Batches(image_set, 10).epoch(0):
            raise KeyError("consumer")
    with pytest.raises(KeyError):
        consume()
    gc.collect()
    assert wait_for_no_threads()


def test_an_iterator_that_is_never_used_starts_no_thread(image_set):
    iterator = Batches(image_set, 10).epoch(0)
    assert prefetch_threads() == []
    iterator.close()


def test_an_error_in_the_thread_reaches_the_consumer(image_set):
    broken = ImageSet(image_set.images, image_set.labels)
    batches = Batches(broken, 10)
    object.__setattr__(broken, "images", image_set.images[:50])
    with pytest.raises(IndexError) as caught:
        epoch(batches)
    assert any("_batches" in str(entry.name) for entry in caught.traceback)
    assert prefetch_threads() == []


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_is_prepared_than_asked_for(count):
    prepared = []

    def items():
        for number in range(20):
            prepared.append(number)
            yield number

    for number, item in enumerate(_ahead(items(), count)):
        assert item == number
        most = min(number + 1 + count, 20)
        wait_for(lambda most=most: len(prepared) >= most)
        assert len(prepared) == most
    assert item == 19
