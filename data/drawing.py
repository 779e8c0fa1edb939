"""Drawing small scenes, vectorised over the images.

Each figure is a signed distance function: it takes coordinates (x, y), float32 arrays of
one shape, in which the figure fits the unit circle, and returns how far outside the figure
each point is (negative inside). Coverage of a pixel follows from the distance, which gives
smooth edges without supersampling. y points down, as the rows do. Every figure equals its
mirror image, so mirroring a scene gives one that is as likely.

Only additions, products, divisions, square roots, comparisons and floors occur, and no
sums whose order NumPy chooses. All of these are exactly rounded in IEEE arithmetic, so a
scene has the same bits on every machine.
"""
import numpy as np

__all__ = ["FIGURES", "SCENE_WORDS", "draw_scenes"]

SIZE = 32
GRID = 6                               # knots of the smooth noise along each side
_CLUTTER = 2                           # stray strokes and dots in a scene
_SCALARS = 28 + 9 * _CLUTTER
_NOISE_WORDS = 3 * SIZE * SIZE // 8    # one byte for each value of an image
SCENE_WORDS = _SCALARS + 3 * GRID * GRID + _NOISE_WORDS


def _length(x, y):
    return np.sqrt(x * x + y * y)


def _star(x, y):
    # Five half-planes; a pentagram is where at most one of them is left: the second
    # largest of the five distances is its own.
    first = np.maximum(-y, x * 0.95105652 - y * 0.30901699)
    second = np.minimum(-y, x * 0.95105652 - y * 0.30901699)
    for normal_x, normal_y in ((0.58778525, 0.80901699), (-0.58778525, 0.80901699),
                               (-0.95105652, -0.30901699)):
        distance = x * normal_x + y * normal_y
        second = np.maximum(second, np.minimum(first, distance))
        first = np.maximum(first, distance)
    return second - 0.32


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.27)


def _heart(x, y):
    # A square on its corner, and half-discs on its upper sides.
    x, y = (x - y) * 0.70710678 + 0.2, (-x - y) * 0.70710678 + 0.2
    box = np.maximum(np.abs(x), np.abs(y)) - 0.5
    return np.minimum(box, np.minimum(_length(x - 0.5, y), _length(x, y - 0.5)) - 0.5)


def _arrow(x, y):
    head = np.maximum(0.05 + y, (np.abs(x) - 0.8 * y - 0.76) * 0.78)
    shaft = np.maximum(np.abs(x) - 0.2, np.abs(y - 0.4) - 0.55)
    return np.minimum(head, shaft)


FIGURES = {
    "disc": lambda x, y: _length(x, y) - 0.9,
    "ring": lambda x, y: np.abs(_length(x, y) - 0.7) - 0.2,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.75,
    "frame": lambda x, y: np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.6) - 0.17,
    "triangle": lambda x, y: np.maximum(-y, np.abs(x) * 0.8660254 + y * 0.5) - 0.5,
    "star": _star, "cross": _cross, "heart": _heart,
    "crescent": lambda x, y: np.maximum(_length(x, y) - 0.95, 0.8 - _length(x, y + 0.45)),
    "arrow": _arrow}


class _Draws:
    """Hands out columns of uniform numbers, one number for each image."""

    def __init__(self, words):
        # 24 bits are what a float32 holds.
        self.columns = ((words >> np.uint64(40)).astype(np.float32) * np.float32(2 ** -24)).T
        self.used = 0

    def __call__(self, low=0.0, high=1.0, channels=None):
        """(N, 1, 1), or (N, channels, 1, 1)."""
        count = channels or 1
        block = self.columns[self.used:self.used + count]
        self.used += count
        values = np.float32(low) + np.float32(high - low) * block.T
        return values.reshape((-1, channels, 1, 1) if channels else (-1, 1, 1))


def draw_scenes(words, labels):
    """Draw one scene for each label.

    Parameters
    ----------
    words : numpy.ndarray
        uint64, (N, SCENE_WORDS): the random numbers of each scene.
    labels : numpy.ndarray
        (N,): which of `FIGURES` is in it.

    Returns
    -------
    numpy.ndarray
        uint8, (N, 3, 32, 32).
    """
    draw = _Draws(words[:, :_SCALARS])
    knots = words[:, _SCALARS:_SCALARS + 3 * GRID * GRID]
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    across, down = axis[None, None, :], axis[None, :, None]

    ground, paint = _two_colours(draw)
    scene = ground + _ground_pattern(draw, across, down) + _smooth_noise(draw, knots)
    for number in range(_CLUTTER):
        if number == _CLUTTER - 1:    # the last stroke may lie over the figure
            scene = _with_figure(scene, draw, labels, paint, across, down)
        scene = _with_stroke(scene, draw, across, down)

    grain = words[:, _SCALARS + 3 * GRID * GRID:].astype("<u8").view(np.uint8)
    grain = grain.reshape(scene.shape).astype(np.float32) - np.float32(127.5)
    scene = scene * np.float32(255) + grain * draw(0.02, 0.1)[:, None]
    return (np.clip(scene, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _direction(draw, most=1.0):
    """Cosine and sine of a random angle, its half's tangent up to `most` (1: a right angle)."""
    half = draw(-most, most)
    scale = 1 / (1 + half * half)
    return (1 - half * half) * scale, 2 * half * scale


def _two_colours(draw):
    """Background and figure, (N, 3, 1, 1) each, at least 0.65 apart before clipping."""
    ground, paint = draw(0.1, 0.9, channels=3), draw(0, 1, channels=3)
    apart = paint - ground
    red, green, blue = apart[:, 0:1], apart[:, 1:2], apart[:, 2:3]
    distance = np.sqrt(red * red + green * green + blue * blue) + np.float32(1e-6)
    return ground, ground + apart * np.maximum(np.float32(0.65) / distance, 1)


def _wave(phase):
    """Triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(phase - np.floor(phase + np.float32(0.5))) - 1


def _ground_pattern(draw, across, down):
    """A slope, stripes, a chequer or nothing, in a random tint; (N, 3, 32, 32)."""
    cosine, sine = _direction(draw)
    period, phase = draw(4, 16), draw()
    along = (across * cosine + down * sine) / period + phase
    aside = (down * cosine - across * sine) / period + phase
    kind = draw()
    stripes = _wave(along)
    chequer = np.where(stripes * _wave(aside) > 0, np.float32(0.7), np.float32(-0.7))
    slope = (across * cosine + down * sine) * np.float32(1 / 16)
    pattern = np.where(kind < 0.3, slope, np.where(kind < 0.55, stripes,
                       np.where(kind < 0.8, chequer, np.float32(0))))
    return pattern[:, None] * draw(-0.1, 0.1, channels=3)


def _smooth_noise(draw, knots):
    """Coloured noise between random knots, bilinear; (N, 3, 32, 32)."""
    values = (knots >> np.uint64(40)).astype(np.float32) * np.float32(2 ** -23) - 1
    values = values.reshape(-1, 3, GRID, GRID)
    place = np.arange(SIZE, dtype=np.float32) * np.float32((GRID - 1) / SIZE)
    knot = place.astype(np.int64)
    weight = place - knot
    rows = (values[:, :, knot] * (1 - weight)[:, None]
            + values[:, :, knot + 1] * weight[:, None])
    noise = rows[..., knot] * (1 - weight) + rows[..., knot + 1] * weight
    return noise * draw(0, 0.15)[:, None]


def _with_figure(scene, draw, labels, paint, across, down):
    """The scene with the figure of each label in it."""
    cosine, sine = _direction(draw, 0.2)    # up to 23 degrees
    radius = draw(9.5, 13)
    room = 15 - radius
    stretch = draw(0.85, 1.18)
    x = across - draw(-1, 1) * room
    y = down - draw(-1, 1) * room
    x, y = (x * cosine + y * sine) / (radius * stretch), (y * cosine - x * sine) / radius
    distance = np.empty_like(x)
    for label, figure in enumerate(FIGURES.values()):
        chosen = labels == label
        distance[chosen] = figure(x[chosen], y[chosen])
    shade = x * draw(-0.1, 0.1) + _wave(x * draw(0.5, 3)) * draw(-0.08, 0.08)
    return _blend(scene, paint + shade[:, None], distance * radius)


def _with_stroke(scene, draw, across, down):
    """The scene with a short stroke, or a dot, of any colour in it."""
    cosine, sine = _direction(draw)
    x, y = across - draw(-16, 16), down - draw(-16, 16)
    half = draw(0, 4)
    x, y = x * cosine + y * sine, y * cosine - x * sine
    beyond = np.maximum(np.abs(x) - half, 0)
    return _blend(scene, draw(0, 1, channels=3), _length(beyond, y) - draw(0.6, 1.8))


def _blend(scene, colour, distance_px):
    """Paint `colour` where the distance is negative, with an edge one pixel wide."""
    cover = np.clip(np.float32(0.5) - distance_px, 0, 1)[:, None]
    return scene + (colour - scene) * cover
