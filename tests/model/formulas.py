"""Layers, units and whole networks in NumPy, as their papers write them.

A unit is a function of the map (N, C, H, W), the parameters by structural name, and the name of
its place: ``chaatac(x, p, "features.2.0.act1")``. So is a layer. Normalisation is prediction's.
"""
import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def relu(x, p=None, at=None):
    return np.maximum(x, 0)


def swish(x, p=None, at=None):
    return x * sigmoid(x)


def prelu(x, p, at):
    return np.where(x > 0, x, x * p[f"{at}.alpha"].reshape(-1, 1, 1))


# ---- layers ----

def windows(x, kernel, stride=1, padding=0, dilation=1, value=0.0):
    """(N, C, H, W) -> (N, C, H', W', k, k): what each position of a kernel's output looks at."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)),
                    constant_values=value)
    side = dilation * (kernel - 1) + 1
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return view[:, :, ::stride, ::stride, ::dilation, ::dilation]


def convolve(x, p, at, stride=1, dilation=1):
    """A convolution that keeps the size up to its stride; its bias, if there is one."""
    weight = p[f"{at}.weight"]
    kernel = weight.shape[-1]
    seen = windows(x, kernel, stride, dilation * (kernel - 1) // 2, dilation)
    out = np.einsum("nchwij,ocij->nohw", seen, weight, optimize=True)
    return out + p[f"{at}.bias"][:, None, None] if f"{at}.bias" in p else out


def normalise(x, p, at, scale=True):
    """By running statistics; without `scale`, gamma stands there unused."""
    def column(name):
        return p[f"{at}.{name}"].reshape(-1, 1, 1)
    out = (x - column("running_mean")) / np.sqrt(column("running_var") + 1e-5)
    return out * (column("gamma") if scale else 1) + column("beta")


def dense(x, p, at):
    out = x @ p[f"{at}.weight"].T
    return out + p[f"{at}.bias"] if f"{at}.bias" in p else out


def largest_pool(x):
    """3x3, stride 2."""
    return windows(x, 3, 2, 1, value=-np.inf).max(axis=(4, 5))


# ---- units ----

def chaatac(x, p, at):
    z = relu(normalise(convolve(x, p, f"{at}.module.0"), p, f"{at}.module.1"))
    return x * sigmoid(normalise(convolve(z, p, f"{at}.module.3"), p, f"{at}.module.4"))


def _channel_gate(x, p, at, statistics):
    logits = [dense(relu(dense(statistic, p, f"{at}.fc1")), p, f"{at}.fc2")
              for statistic in statistics]
    return x * sigmoid(sum(logits))[:, :, None, None]


def se(x, p, at):
    return _channel_gate(x, p, at, [x.mean((2, 3))])


def cbam(x, p, at):
    """elbuco1's: maximum before mean in the spatial half, biases everywhere."""
    x = _channel_gate(x, p, f"{at}.channel", [x.mean((2, 3)), x.max((2, 3))])
    maps = np.stack([x.max(1), x.mean(1)], axis=1)
    return x * sigmoid(convolve(maps, p, f"{at}.spatial.conv"))


def eca(x, p, at):
    taps = p[f"{at}.conv.weight"][0, 0]
    rows = np.pad(x.mean((2, 3)), ((0, 0), (len(taps) // 2,) * 2))
    logit = sum(tap * rows[:, i:i + x.shape[1]] for i, tap in enumerate(taps))
    return x * sigmoid(logit)[:, :, None, None]


UNITS = {"relu": relu, "swish": swish, "prelu": prelu, "ChaATAC": chaatac, "SE": se, "CBAM": cbam,
         "ECA": eca, None: lambda x, p, at: x}


# ---- blocks ----

def preactivation_block(x, p, at, stride, act, attn):
    """He et al. 2016: twice BN, activation, convolution; nothing after the addition."""
    shortcut = convolve(x, p, f"{at}.downsample", stride) if f"{at}.downsample.weight" in p else x
    out = act(normalise(x, p, f"{at}.bn1"), p, f"{at}.act1")
    out = convolve(out, p, f"{at}.conv1", stride)
    out = act(normalise(out, p, f"{at}.bn2"), p, f"{at}.act2")
    return attn(convolve(out, p, f"{at}.conv2"), p, f"{at}.attn") + shortcut


def _projection(x, p, at, stride):
    if f"{at}.downsample.0.weight" not in p:
        return x
    return normalise(convolve(x, p, f"{at}.downsample.0", stride), p, f"{at}.downsample.1")


def residual_block(x, p, at, strides, acts, attn, slot="act"):
    """He et al. 2015: a convolution for each stride, each with BN; the last act after the sum."""
    out = x
    for i, stride in enumerate(strides, 1):
        out = normalise(convolve(out, p, f"{at}.conv{i}", stride), p, f"{at}.bn{i}")
        if i < len(strides):
            out = acts[0](out, p, f"{at}.{slot}{i}")
    shortcut = _projection(x, p, at, max(strides))
    return acts[1](attn(out, p, f"{at}.attn") + shortcut, p, f"{at}.{slot}{len(strides)}")


# ---- networks ----

def resnet_v2_cifar(x, p, blocks, acts, attns):
    """`acts`: of the three stages and the head; `attns`: of each block."""
    x = convolve(normalise(x, p, "features.0", scale=False), p, "features.1")
    for stage in range(3):
        for i in range(blocks):
            x = preactivation_block(x, p, f"features.{2 + stage}.{i}",
                                    2 if stage and not i else 1, acts[stage],
                                    attns[stage * blocks + i])
    x = acts[3](normalise(x, p, "features.5"), p, "features.6")
    return dense(x.mean((2, 3)), p, "output")


def resnet_v1_cifar(x, p, layers, bottleneck, acts, lasts, attns, plain, pooled=False,
                    classifier=None):
    """`acts`, `lasts`: inside and after the blocks of each stage; `attns`: of each block.

    `classifier`: a unit whose output is added to the last map.
    """
    x = plain(normalise(convolve(x, p, "features.0"), p, "features.1"), p, "features.2")
    first, number = 3, 0
    if pooled:
        x, first = largest_pool(x), 4
    for stage, blocks in enumerate(layers):
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            x = residual_block(x, p, f"features.{first + stage}.{i}",
                               (1, stride, 1) if bottleneck else (stride, 1),
                               (acts[stage], lasts[stage]), attns[number])
            number += 1
    if classifier:
        x = x + classifier(x, p, f"features.{first + 4}.attn")
    return dense(x.mean((2, 3)), p, "output")


def resnet_v1b(x, p, bottleneck, acts, attn):
    """GluonCV's, one block a stage; a ReLU after each addition."""
    x = largest_pool(relu(normalise(convolve(x, p, "conv1", 2), p, "bn1")))
    for stage in range(4):
        stride = 2 if stage else 1
        x = residual_block(x, p, f"layer{1 + stage}.0",
                           (1, stride, 1) if bottleneck else (stride, 1),
                           (acts[stage], relu), attn, "relu")
    return dense(x.mean((2, 3)), p, "fc")
