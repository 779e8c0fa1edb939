"""Properties of the augmentation: what can come out, and how often."""
import numpy as np
import pytest

from data.batches import PADDINGS, random_crop_mirror

MEAN = (0.49, 0.25, 0.7)
COLOUR = np.rint(np.array(MEAN) * 255).reshape(3, 1, 1)


def stream(seed=0):
    return np.random.PCG64(seed)


@pytest.fixture
def images():
    return np.random.RandomState(0).randint(0, 256, (40, 3, 32, 32)).astype(np.uint8)


def padded(image, pad, padding):
    """One image, padded by NumPy's own function."""
    width = ((0, 0), (pad, pad), (pad, pad))
    if padding == "reflect":
        return np.pad(image, width, mode="reflect")
    result = np.pad(image.astype(float), width, constant_values=np.nan)
    filling = COLOUR if padding == "mean" else np.zeros((3, 1, 1))
    return np.where(np.isnan(result), filling, result).astype(np.uint8)


def possible(image, pad, padding):
    """All crops and their mirror images, as bytes -> (top, left, mirrored)."""
    large = padded(image, pad, padding)
    crops = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = large[:, top:top + 32, left:left + 32]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, :, ::-1].tobytes()] = (top, left, True)
    assert len(crops) == 2 * (2 * pad + 1) ** 2
    return crops


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_every_result_is_a_possible_crop(padding, pad, images):
    before = images.copy()
    results = random_crop_mirror(images, stream(), pad=pad, padding=padding, mean=MEAN)
    assert results.dtype == np.uint8
    assert results.flags.c_contiguous
    for image, result in zip(images, results):
        assert result.tobytes() in possible(image, pad, padding)
    assert np.array_equal(images, before)


def test_offsets_are_uniform_and_half_is_mirrored(images):
    count = 16200    # 100 for each of the 81 x 2 outcomes
    results = random_crop_mirror(np.repeat(images[:1], count, axis=0), stream())
    crops = possible(images[0], 4, "black")
    outcomes = [crops[result.tobytes()] for result in results]
    hits = np.zeros((9, 9, 2))
    for top, left, mirrored in outcomes:
        hits[top, left, int(mirrored)] += 1
    # Chi squared with 161 degrees of freedom: mean 161, deviation 18.
    assert ((hits - 100) ** 2 / 100).sum() < 161 + 5 * 18
    assert abs(hits[..., 1].sum() / count - 0.5) < 5 * 0.5 / count ** 0.5


def test_the_stream_decides(images):
    first = random_crop_mirror(images, stream(1))
    assert np.array_equal(first, random_crop_mirror(images, stream(1)))
    assert not np.array_equal(first, random_crop_mirror(images, stream(2)))
    assert np.array_equal(first, random_crop_mirror(images, np.random.Generator(stream(1))))


def test_each_image_takes_one_word(images):
    whole = random_crop_mirror(images, stream())
    rest = random_crop_mirror(images[15:], stream().advance(15))
    assert np.array_equal(whole[15:], rest)


def test_the_choice_never_changes():
    """The first draws of a seed, so that a new NumPy cannot change a run unnoticed."""
    ramp = np.arange(32 * 32).reshape(1, 1, 32, 32) % 251
    images = np.repeat(ramp, 4, axis=0).astype(np.uint8)
    crops = random_crop_mirror(images, stream(7), padding="reflect")
    assert crops[:, 0, 10, 10].tolist() == [123, 220, 142, 17]


def test_other_sizes():
    images = np.random.RandomState(0).randint(0, 256, (3, 1, 5, 9)).astype(np.uint8)
    assert random_crop_mirror(images, stream(), pad=2).shape == (3, 1, 5, 9)


def test_a_reflection_is_smaller_than_the_image(images):
    with pytest.raises(ValueError, match="pad is 32"):
        random_crop_mirror(images, stream(), pad=32, padding="reflect")
