"""Deletion and insertion on a network of which we know what it looks at."""
import mxnet as mx
import numpy as np
import pytest

from explain.cam import grad_cam
from explain.faithfulness import area, blur, curves, enlarge, measure, pixel_order
from tests.explain.toys import corner_net

SIDE = 16


def to_input(images):
    return mx.nd.array(images.astype(np.float32) / 255)


@pytest.fixture(scope="module")
def images():
    """Bright upper left quarters, and something bright elsewhere that does not matter."""
    random = np.random.default_rng(0)
    found = random.integers(0, 40, (8, 3, SIDE, SIDE)).astype(np.uint8)
    found[:, :, :SIDE // 2, :SIDE // 2] = 250
    found[:, :, 12:, 10:14] = 250
    return found


def test_the_hottest_places_first_beats_random_and_the_coldest(images):
    net = corner_net(SIDE)
    cam = grad_cam(net, to_input(images))
    assert (cam.classes == 1).all()
    assert (cam.maps[:, 2:] == 0).all() and (cam.maps[:, :2, :2] > 0).all()
    good = measure(net, to_input, images, cam.maps, cam.classes)
    assert (good.deletion < good.random_deletion).all()
    assert (good.insertion > good.random_insertion).all()
    summary = good.summary()
    assert summary["images"] == 8 and summary["deletion_wins"] == summary["insertion_wins"] == 1
    assert summary["whole"] > 0.9 and summary["blurred"] < summary["whole"]

    bad = measure(net, to_input, images, -cam.maps, cam.classes)
    assert (bad.deletion > good.deletion).all() and (bad.insertion < good.insertion).all()
    again = measure(net, to_input, images, cam.maps, cam.classes)
    np.testing.assert_array_equal(again.random_deletion, good.random_deletion)


def test_curves_change_pixel_by_pixel():
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    smooth = image + 100
    frames = []

    def probability(batch):
        frames.extend(batch)
        return np.arange(len(batch))

    deletion, insertion = curves(probability, image, smooth, np.array([3, 0, 2, 1]), steps=4)
    assert len(deletion) == len(insertion) == 5
    np.testing.assert_array_equal(frames[0], image)
    np.testing.assert_array_equal(frames[4], smooth)
    np.testing.assert_array_equal(frames[5], smooth)
    np.testing.assert_array_equal(frames[9], image)
    np.testing.assert_array_equal((frames[1] != image).any(axis=0), [[False, False],
                                                                     [False, True]])
    np.testing.assert_array_equal((frames[7] == image).all(axis=0), [[True, False],
                                                                     [False, True]])


def test_area_is_the_trapezoidal_rule():
    assert area(np.array([1.0, 1.0, 1.0])) == 1
    curve = np.array([1.0, 0.6, 0.5, 0.1])
    by_pieces = sum((a + b) / 2 for a, b in zip(curve, curve[1:])) / 3
    assert area(curve) == pytest.approx(by_pieces)


def test_equal_pixels_come_in_random_order():
    order = pixel_order([[0, 5, 0], [0, 0, 9]], np.random.default_rng(0))
    assert list(order[:2]) == [5, 1] and sorted(order) == list(range(6))
    orders = {tuple(pixel_order(np.zeros((2, 3)), np.random.default_rng(s))) for s in range(9)}
    assert len(orders) > 1


def test_blur_keeps_shape_and_mean_and_removes_contrast(images):
    smooth = blur(images[0])
    assert smooth.shape == images[0].shape and smooth.dtype == np.uint8
    assert smooth.std() < 0.8 * images[0].std()


def test_enlarging_stays_in_the_range():
    heat = np.array([[0, 3], [1, 0]], np.float32)
    large = enlarge(heat, 12, 10)
    assert large.shape == (12, 10) and large.min() >= 0 and large.max() <= 3
    assert large[0, -1] == large.max()
