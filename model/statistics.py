"""Statistics of a feature map, and what is spread over one, as products of matrices.

On a CPU, MXNet's reductions and broadcasting operators, and the backward pass of a global
pooling, are several times slower than the same thing written as a product of matrices. So a
mean is a product with a vector of 1 / n; a map is spread to the input's shape by an outer
product with ones, which is exact; and a maximum is picked by its index, so that its backward
pass writes one number instead of comparing all. (Such an index is exact in float16 up to
2,048 channels, rows or columns.)
"""

__all__ = ["ones_per_channel", "ones_per_position", "spread_channels", "spread_positions",
           "position_mean", "position_max", "position_variance", "channel_mean", "channel_max",
           "channel_variance"]


# ---- maps of ones, and what is spread with them ----

def ones_per_channel(F, x):
    """(N, C, 1) ones, of the type and on the device of x (N, C, H, W)."""
    corner = F.slice(x, begin=(None, None, 0, 0), end=(None, None, 1, 1))
    return F.reshape(F.ones_like(corner), shape=(0, 0, -1))


def ones_per_position(F, x):
    """(N, 1, H W) ones, of the type and on the device of x (N, C, H, W)."""
    return F.reshape(F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1)), shape=(0, 0, -1))


def spread_channels(F, x, channel_map):
    """Repeat a channel map (N, C, 1, 1) at every position of x (N, C, H, W)."""
    column = F.reshape(channel_map, shape=(0, 0, -1))                  # (N, C, 1)
    return F.reshape_like(F.batch_dot(column, ones_per_position(F, x)), x)


def spread_positions(F, x, spatial_map):
    """Repeat a spatial map (N, 1, H, W) in every channel of x (N, C, H, W)."""
    row = F.reshape(spatial_map, shape=(0, 0, -1))                     # (N, 1, H W)
    return F.reshape_like(F.batch_dot(ones_per_channel(F, x), row), x)


# ---- statistics over positions: (N, C, H, W) -> (N, C, 1, 1) ----

def position_mean(F, x):
    """Mean over all positions, as a global average pooling."""
    ones = ones_per_position(F, x)
    weights = F.broadcast_div(ones, F.sum(ones, axis=2, keepdims=True))
    mean = F.batch_dot(F.reshape(x, shape=(0, 0, -3)), weights, transpose_b=True)  # (N, C, 1)
    return F.reshape(mean, shape=(0, 0, 1, 1))


def position_max(F, x):
    rows = F.pick(x, F.argmax(x, axis=3), axis=3)                      # (N, C, H)
    largest = F.pick(rows, F.argmax(rows, axis=2), axis=2)             # (N, C)
    return F.reshape(largest, shape=(0, 0, 1, 1))


def position_variance(F, x):
    """Unbiased variance; 0 on a map of a single position."""
    # The gradient through the mean is zero: deviations sum to zero. It is stopped at x, not
    # at the mean: MXNet crashes on a BlockGrad after a product of matrices and another step.
    fixed = F.BlockGrad(x)
    deviation = x - spread_channels(F, fixed, position_mean(F, fixed))
    positions = F.reshape(F.sum(ones_per_position(F, x), axis=2), shape=(0, 0, 1, 1))
    unbiased = positions / F.maximum(positions - 1, F.ones_like(positions))
    return F.broadcast_mul(position_mean(F, F.square(deviation)), unbiased)


# ---- statistics over channels: (N, C, H, W) -> (N, 1, H, W) ----

def channel_mean(F, x, channels):
    weights = F.swapaxes(ones_per_channel(F, x), 1, 2) / channels     # (N, 1, C)
    mean = F.batch_dot(weights, F.reshape(x, shape=(0, 0, -3)))        # (N, 1, H W)
    return F.reshape_like(mean, F.slice_axis(x, axis=1, begin=0, end=1))


def channel_max(F, x, channels):
    return F.pick(x, F.argmax(x, axis=1), axis=1, keepdims=True)


def channel_variance(F, x, channels):
    """Unbiased variance; 0 for a single channel."""
    fixed = F.BlockGrad(x)                         # as in position_variance
    deviation = x - spread_positions(F, fixed, channel_mean(F, fixed, channels))
    biased = channel_mean(F, F.square(deviation), channels)
    return biased * (channels / max(channels - 1, 1))
