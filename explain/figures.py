"""The pictures: a gallery of heat maps, and a table of gates."""
import bisect
import textwrap
from dataclasses import dataclass

import numpy as np

from common.plots import make_figure, save_figure
from common.screen import printable

from .faithfulness import enlarge
from .gates import BINS

__all__ = ["Column", "Caption", "draw_gallery", "draw_gates"]

# Of even lightness steps; blue-green and vermilion stay apart for every kind of colour vision.
HEAT, GATE = "inferno", "viridis"
RIGHT, WRONG, UNKNOWN = "#00735c", "#c23b00", "#333333"
VARIANCE = (("channel", "#8c8c8c"), ("image", "#e69f00"), ("place", "#0072b2"))
_SIDE = 256        # pixels: small images are enlarged to this side


@dataclass(frozen=True)
class Caption:
    """What a network says of an image; `right` is None where the truth is not known."""

    text: str
    right: bool = None


@dataclass(frozen=True)
class Column:
    """One network's answers: heat maps (N, h, w), at least 0, and N captions."""

    title: str
    maps: np.ndarray
    captions: list


class _Sheet:
    """A figure whose axes are placed in inches from the top left corner."""

    def __init__(self, width, height, dpi):
        self.width, self.height = width, height
        self.figure = make_figure(width, height, dpi, facecolor="white")

    def axes(self, left, top, width, height, **kwargs):
        return self.figure.add_axes([left / self.width, 1 - (top + height) / self.height,
                                     width / self.width, height / self.height], **kwargs)

    def image(self, left, top, side, pixels, frame=None, **style):
        """Draw a square image, in a frame of that colour; returns its axes."""
        axes = self.axes(left, top, side, side)
        axes.imshow(pixels, **{"interpolation": "antialiased", **style})
        _bare(axes, frame)
        return axes

    def text(self, left, top, text, width=None, lines=1, **kwargs):
        """Write text; if a width is given, within it and so many lines, shortened if need be."""
        drawn = self.figure.text(left / self.width, 1 - top / self.height, text, **kwargs)
        if width is None:
            return
        text = printable(text)

        def is_too_wide(letters):
            drawn.set_text(_wrapped(text, letters, lines))
            return drawn.get_window_extent().width > width * self.figure.dpi

        fitting = bisect.bisect_left(range(2, len(text) + 1), True, key=is_too_wide)
        drawn.set_text(_wrapped(text, fitting + 1, lines))

    def save(self, path):
        save_figure(self.figure, path, pil_kwargs={"optimize": True})


def _smooth(image):
    """An image (H, W, 3), enlarged smoothly to `_SIDE` pixels if it is smaller."""
    from PIL import Image

    height, width = image.shape[:2]
    if min(height, width) >= _SIDE:
        return image
    scale = _SIDE / min(height, width)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))


def overlay(image, heat):
    """A heat map laid over an image (H, W, 3) uint8, as floats in [0, 1].

    The image is grey, so that colour means heat and nothing else; the hotter a place, the more
    of the colour covers it.
    """
    grey = (image / 255.0) @ (0.299, 0.587, 0.114)
    largest = heat.max()
    heat = enlarge(heat / largest if largest > 0 else heat, *image.shape[:2]).clip(0, 1)
    import matplotlib

    colour = matplotlib.colormaps[HEAT](heat)[..., :3]
    cover = (0.25 + 0.45 * heat)[..., None]
    return (1 - cover) * grey[..., None] + cover * colour


def _bare(axes, colour=None):
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=2.5)


_CELL, _GAP, _CAPTION, _HEADER, _MARGIN, _LEGEND = 1.6, 0.1, 0.3, 0.42, 0.15, 0.5


def draw_gallery(path, pictures, columns, title):
    """Draw images in rows, beside each the heat map of every network.

    With few networks several images stand side by side.

    Parameters
    ----------
    path : str or pathlib.Path
        PNG file to write, atomically.
    pictures : list of explain.images.Picture
    columns : list of Column
        One for each network.
    title : str
        Stands above it all.
    """
    group = 1 + len(columns)
    side_by_side = min(max(1, 6 // group), len(pictures))
    rows = -(-len(pictures) // side_by_side)
    step = _CELL + _GAP
    block = group * step + 2 * _GAP
    # One network is named by the title; several are named above their columns.
    width = max(side_by_side * block - 3 * _GAP + 2 * _MARGIN, 4.4)
    lines = 1 if width > 6 else 2
    top = _MARGIN + 0.1 + 0.2 * lines + (_HEADER if len(columns) > 1 else 0)
    sheet = _Sheet(width, top + rows * (_CELL + _CAPTION) + _LEGEND, dpi=100)
    sheet.text(_MARGIN, _MARGIN, title, width - 2 * _MARGIN, lines, va="top", fontsize=11,
               fontweight="bold")
    for index, picture in enumerate(pictures):
        row, place = divmod(index, side_by_side)
        left, y = _MARGIN + place * block, top + _CAPTION + row * (_CELL + _CAPTION)
        if row == 0 and len(columns) > 1:
            _draw_headers(sheet, left, top, step, columns)
        image = _smooth(picture.shown)
        sheet.image(left, y, _CELL, image)
        about = " · ".join(filter(None, (picture.label, picture.title)))
        sheet.text(left, y - 0.06, about, _CELL, va="bottom", fontsize=9, color=UNKNOWN)
        for k, column in enumerate(columns, 1):
            _draw_overlay(sheet, left + k * step, y, image, column.maps[index],
                          column.captions[index])
    _draw_heat_legend(sheet)
    sheet.save(path)


def _wrapped(text, letters, lines):
    """Text in lines of so many letters at most; what is left out is in its middle, a …"""
    wrapped, kept = textwrap.wrap(text, letters), min(len(text), letters * lines)
    while len(wrapped) > lines:
        kept -= 1
        wrapped = textwrap.wrap(f"{text[:kept - kept // 2]}…{text[len(text) - kept // 2:]}",
                                letters)
    return "\n".join(wrapped)


def _draw_headers(sheet, left, top, step, columns):
    for k, column in enumerate(columns, 1):
        sheet.text(left + k * step, top - 0.02, column.title, _CELL, 2, va="bottom",
                   fontsize=8.5, fontweight="bold", linespacing=1.1)


def _draw_overlay(sheet, left, top, image, heat, caption):
    colour = {True: RIGHT, False: WRONG, None: UNKNOWN}[caption.right]
    sign = {True: "✓ ", False: "✗ ", None: ""}[caption.right]
    axes = sheet.image(left, top, _CELL, overlay(image, heat), colour)
    if heat.max() <= 0:
        axes.text(0.5, 0.5, "no place speaks\nfor this class", transform=axes.transAxes,
                  ha="center", va="center", color="white", fontsize=8)
    sheet.text(left, top - 0.06, sign + caption.text, _CELL, va="bottom", fontsize=9,
               color=colour, fontweight="bold")


def _draw_heat_legend(sheet):
    top = sheet.height - _LEGEND + 0.14
    axes = sheet.axes(_MARGIN, top, 1.5, 0.1)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=HEAT)
    axes.set(yticks=[], xticks=[0, 255])
    axes.set_xticklabels(["0", "largest"], fontsize=7)
    axes.tick_params(length=0, pad=2)
    sheet.text(_MARGIN + 1.75, top + 0.05, "heat within each map     ✓ right   ✗ wrong",
               va="center", fontsize=8, color=UNKNOWN)


_MAP, _SPACE, _LABELS, _PLOT, _BAR = 1.15, 0.1, 0.75, 0.75, 0.16


def draw_gates(path, pictures, layers, title):
    """Draw each unit's mean gate for each image, and how all its values are distributed.

    Parameters
    ----------
    path : str or pathlib.Path
        PNG file to write, atomically.
    pictures : list of explain.images.Picture
        Those to show; the first so many of the images that were measured.
    layers : list of explain.gates.GateLayer
    title : str
    """
    step, first = _MAP + _SPACE, _MARGIN + 0.35
    maps_top = first + 0.5
    plots_top = maps_top + len(pictures) * step + 0.22
    bars_top = plots_top + _PLOT + 0.42
    left = _MARGIN + _LABELS
    sheet = _Sheet(left + (1 + len(layers)) * step + _MARGIN, bars_top + _BAR + 0.4, dpi=100)
    sheet.text(_MARGIN, _MARGIN, title, sheet.width - 2 * _MARGIN, va="top", fontsize=11,
               fontweight="bold")
    for row, picture in enumerate(pictures):
        sheet.image(left, maps_top + row * step, _MAP, _smooth(picture.shown))
        sheet.text(left - 0.06, maps_top + row * step + _MAP / 2,
                   picture.label or picture.title, _LABELS, ha="right", va="center", fontsize=8,
                   color=UNKNOWN)
    for k, layer in enumerate(layers, 1):
        x = left + k * step
        _draw_gate_maps(sheet, x, maps_top, layer, len(pictures))
        _draw_distribution(sheet, x, plots_top, layer)
        _draw_shares(sheet, x, bars_top, layer)
    _describe_rows(sheet, left, maps_top, plots_top, bars_top)
    sheet.save(path)


def _draw_gate_maps(sheet, left, top, layer, count):
    maps = layer.maps[:count]
    low, high = float(maps.min()), float(maps.max())
    sheet.text(left, top - 0.31, layer.name, _MAP, va="bottom", fontsize=7.5, fontweight="bold")
    sheet.text(left, top - 0.16, layer.kind, va="bottom", fontsize=7.5, color=UNKNOWN)
    sheet.text(left, top - 0.02, f"{low:.2f} to {high:.2f}", va="bottom", fontsize=7.5,
               color=UNKNOWN)
    for row, gate in enumerate(maps):
        sheet.image(left, top + row * (_MAP + _SPACE), _MAP, gate, cmap=GATE, vmin=low,
                    vmax=max(high, low + 1e-6), interpolation="nearest")


def _draw_distribution(sheet, left, top, layer):
    axes = sheet.axes(left, top, _MAP, _PLOT)
    centres = (np.arange(BINS) + 0.5) / BINS
    axes.bar(centres, layer.histogram / max(layer.histogram.max(), 1e-9), 1 / BINS, color="#0072b2")
    for place, share in ((0, 1 - layer.relu_on), (1, layer.relu_on)):
        axes.plot([place, place], [0, share], color="#d55e00", linewidth=2, clip_on=False)
        axes.plot(place, share, "o", color="#d55e00", markersize=3.5, clip_on=False)
    axes.set(xlim=(-0.04, 1.04), ylim=(0, 1.05), yticks=[], xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "½", "1"], fontsize=7)
    axes.tick_params(length=2, pad=1.5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_shares(sheet, left, top, layer):
    axes = sheet.axes(left, top, _MAP, _BAR)
    start = 0
    for (_, colour), share in zip(VARIANCE, layer.shares):
        axes.barh(0, share, 1, start, color=colour)
        start += share
    axes.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    _bare(axes)


def _describe_rows(sheet, left, maps_top, plots_top, bars_top):
    style = {"fontsize": 8, "color": UNKNOWN}
    x = left + _MAP
    axes = sheet.axes(x - 1.1, maps_top - 0.36, 0.9, 0.07)
    axes.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=GATE)
    _bare(axes)
    sheet.text(x - 1.1, maps_top - 0.39, "mean gate", va="bottom", **style)
    sheet.text(x - 1.1, maps_top - 0.15, "low", ha="left", va="bottom", fontsize=7)
    sheet.text(x - 0.2, maps_top - 0.15, "high", ha="right", va="bottom", fontsize=7)
    sheet.text(x, plots_top + 0.12, "all gate values", ha="right", va="top", **{
        **style, "color": "#0072b2"})
    sheet.text(x, plots_top + 0.3, "ReLU in its place:\noff / on share", ha="right", va="top",
               **{**style, "color": "#d55e00"})
    sheet.text(x, bars_top + _BAR / 2, "variance between", ha="right", va="center", **style)
    for k, (name, colour) in enumerate(VARIANCE):
        sheet.text(x + 0.12 + 0.95 * k, bars_top + _BAR + 0.12, f"■ {name}s", va="top",
                   fontsize=8, color=colour)
