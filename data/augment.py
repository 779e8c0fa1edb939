"""The reference's augmentation, on a whole batch at once: pad, crop, mirror."""
import numpy as np

from data.streams import scaled

__all__ = ["PADDINGS", "random_crop_mirror"]

PADDINGS = ("black", "mean", "reflect")


def random_crop_mirror(images, rng, pad=4, padding="black", mean=None):
    """Pad every side, crop back to the size at a random place, mirror every second image.

    Parameters
    ----------
    images : numpy.ndarray
        uint8, (B, C, H, W); left as it is.
    rng : numpy.random.Generator or numpy.random.BitGenerator
        One raw 64-bit word of it is used for each image, in order. (The methods of
        Generator are not: their results may differ between versions of NumPy.)
    pad : int, default 4
        Pixels at each side.
    padding : str, default 'black'
        What lies outside: 'black' is zeros, before normalisation, as in the reference;
        'mean' is `mean`, rounded; 'reflect' is the image mirrored about its outermost
        pixels.
    mean : sequence of C floats
        In [0, 1]; needed for 'mean' alone.

    Returns
    -------
    numpy.ndarray
        uint8, (B, C, H, W), C-contiguous.
    """
    batch = len(images)
    padded = _padded(images, pad, padding, mean)
    words = getattr(rng, "bit_generator", rng).random_raw(batch)
    span = 2 * pad + 1
    top = scaled(words >> np.uint64(40), span)
    left = scaled((words >> np.uint64(16)) & np.uint64(0xFFFFFF), span)
    mirrored = (words & np.uint64(1)).astype(bool)

    windows = np.lib.stride_tricks.sliding_window_view(
        padded, images.shape[2:], axis=(2, 3))         # (B, C, span, span, H, W)
    crops = windows[np.arange(batch), :, top, left]    # (B, C, H, W)
    crops[mirrored] = crops[mirrored, :, :, ::-1]
    return crops


def _padded(images, pad, padding, mean):
    """(B, C, H, W) -> (B, C, H + 2 pad, W + 2 pad)."""
    batch, channels, height, width = images.shape
    shape = (batch, channels, height + 2 * pad, width + 2 * pad)
    if padding == "reflect":
        if pad >= min(height, width):
            raise ValueError(f"pad is {pad}; to reflect a {height}x{width} image it must be "
                             f"below {min(height, width)}")
        rows, columns = (np.pad(np.arange(size), pad, mode="reflect")
                         for size in (height, width))
        return images.take(rows, axis=2).take(columns, axis=3)
    if padding == "black":
        padded = np.zeros(shape, np.uint8)
    elif padding == "mean":
        if mean is None:
            raise ValueError("padding 'mean' needs the mean colour")
        padded = np.empty(shape, np.uint8)
        colour = np.rint(np.asarray(mean, np.float64) * 255).astype(np.uint8)
        padded[:] = colour.reshape(1, channels, 1, 1)
    else:
        raise ValueError(f"unknown padding '{padding}'. Known: {', '.join(PADDINGS)}.")
    padded[:, :, pad:pad + height, pad:pad + width] = images
    return padded
