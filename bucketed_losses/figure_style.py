"""The one style of all figures: colours of the losses, text sizes, direct labels, and the background.

No other module names a colour (``tests/project/test_figures.py`` checks this). The colours are those of Okabe and Ito,
Color Universal Design, 2008, which people with any colour vision can tell apart. Every ranking loss has a colour of its
own; Bucketed RS Loss has the strongest colour and the thickest line. Losses that a detector comes with are grey.
Published algorithms (the loop over positives, the P x B matrices) are black.

Figures have an opaque white background with a margin, so that they look the same on a light and on a dark page.

Matplotlib is imported when a figure is drawn. ``pyplot`` is not used: a figure belongs to nobody but its caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError
from .new_files import check_folder

# Okabe and Ito's colours.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _VERMILLION, _PURPLE = (
    '#000000', '#E69F00', '#56B4E9', '#009E73', '#0072B2', '#D55E00', '#CC79A7',
)  # fmt: skip
_DARK_GREY, _GREY, _LIGHT_GREY, _WHITE = '#5F5F5F', '#8C8C8C', '#D0D0D0', '#FFFFFF'

BACKGROUND = _WHITE
GUIDE = _DARK_GREY
"""Lines to compare with, such as a diagonal."""
NEGATIVES = _GREY
POSITIVES = _VERMILLION
QUIET = _LIGHT_GREY
"""What is behind the data."""
IOU_MAP = 'viridis'
"""The colour map of IoUs: its lightness increases evenly, also in grey and for any colour vision."""

_RC = {
    'figure.facecolor': BACKGROUND,
    'axes.facecolor': BACKGROUND,
    'savefig.facecolor': BACKGROUND,
    'font.size': 11.0,
    'axes.titlesize': 12.0,
    'axes.titleweight': 'bold',
    'axes.labelsize': 11.0,
    'xtick.labelsize': 10.0,
    'ytick.labelsize': 10.0,
    'legend.fontsize': 10.0,
    'legend.frameon': False,
    'text.color': _BLACK,
    'axes.labelcolor': _BLACK,
    'axes.edgecolor': _DARK_GREY,
    'xtick.color': _DARK_GREY,
    'ytick.color': _DARK_GREY,
    'xtick.labelcolor': _BLACK,
    'ytick.labelcolor': _BLACK,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': _LIGHT_GREY,
    'grid.linewidth': 0.6,
    'grid.alpha': 0.7,
    'figure.constrained_layout.h_pad': 0.12,
    'figure.constrained_layout.w_pad': 0.12,
}
_DPI = 160
_MARGIN = 0.15  # inches
_LABEL_POINTS = 10.5
_SAME_COLUMN = 0.12  # of the width of an axis


@dataclass(frozen=True)
class Look:
    """How the line or the dots of one loss look."""

    color: str
    linestyle: str | tuple[int, tuple[int, ...]] = '-'
    linewidth: float = 1.6
    zorder: float = 3.0

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of :meth:`matplotlib.axes.Axes.plot`."""
        return dict(color=self.color, linestyle=self.linestyle, linewidth=self.linewidth, zorder=self.zorder)

    @property
    def ink(self) -> tuple[float, ...]:
        """The colour of text about the loss: darker, so that small letters can be read on white."""
        from matplotlib.colors import to_rgb

        return tuple(0.78 * part for part in to_rgb(self.color))


_STOCK = Look(_DARK_GREY, linewidth=1.8)
_LOOKS = {
    'brs': Look(_VERMILLION, linewidth=3.0, zorder=5.0),
    'rs': Look(_ORANGE),
    'bap': Look(_BLUE),
    'ap': Look(_SKY),
    'alrp': Look(_PURPLE),
    'dr': Look(_GREEN),
    'stock': _STOCK,
    'focal': _STOCK,
    'ce': Look(_GREY, linestyle=(0, (5, 1))),
    'qfl': Look(_GREY, linestyle='-.'),
}
_WORDS = {'cross': 'ce', 'quality': 'qfl', 'bucketedrs': 'brs', 'bucketedap': 'bap'}
_PUBLISHED = {'by loop': Look(_BLACK, linestyle=(0, (5, 2))), 'by matrices': Look(_BLACK, linestyle=(0, (1, 1)))}
_OTHERS = (_BLUE, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK)
_LINESTYLES = ('-', '--', '-.', ':')


def look_of(name: str) -> Look | None:
    """The look of the loss that ``name`` mentions first, e.g. 'brs', 'BRS+GIoU' or 'RS by loop'; None if there is none.

    'BRS, time of RS by loop' is a run of BRS Loss: the part after a comma does not count.
    """
    name = name.lower().split(',')[0]
    for ending, look in _PUBLISHED.items():
        if name.endswith(ending):
            return look
    words = (_WORDS.get(word, word) for word in re.split('[^a-z]+', name))
    return next((_LOOKS[word] for word in words if word in _LOOKS), None)


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """A look for every name: names without a loss get other colours, further names of one loss other dashes."""
    looks: dict[str, Look] = {}
    others = iter(_OTHERS * len(_LINESTYLES))
    for name in names:
        taken = {(look.color, look.linestyle) for look in looks.values()}
        look = look_of(name) or Look(next(others))
        if (look.color, look.linestyle) in taken:
            free = (dashes for dashes in _LINESTYLES if (look.color, dashes) not in taken)
            look = replace(look, linestyle=next(free, '-'), linewidth=min(look.linewidth, 2.0))
        looks[name] = look
    return looks


@contextmanager
def figure_style() -> Iterator[None]:
    """A context, also usable as a decorator of a function that draws, in which Matplotlib has the style."""
    from matplotlib import rc_context

    with rc_context(_RC):
        yield


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0), **options: Any
) -> tuple[Any, Any]:
    """A figure and its axes ``(rows, columns)``; call it inside :func:`figure_style`.

    Args:
        rows, columns: Number of panels.
        size: Width and height of the whole figure in inches.
        **options: Further arguments of :meth:`matplotlib.figure.Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def new_panels(number: int, size: tuple[float, float], columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure and the axes of its panels, row by row; call it inside :func:`figure_style`.

    Args:
        number: Number of panels.
        size: Width and height of a panel in inches.
        columns: The largest number of panels in a row.
    """
    columns = min(number, columns)
    rows = -(-number // columns)
    figure, axes = new_figure(rows, columns, (size[0] * columns, size[1] * rows))
    flat = list(axes.flat)
    for axis in flat[number:]:
        axis.set_visible(False)
    return figure, flat[:number]


def check_picture(out: str | Path) -> None:
    """Refuse a file that a figure cannot be written to. Nothing is written.

    Raises:
        UserError: its name has no suffix of a picture, or its folder is a file or cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(out).suffix[1:].lower() not in FigureCanvasAgg.get_supported_filetypes():
        raise UserError(f'the name of the picture must end in .png, got {out}')
    check_folder('folder of the picture', Path(out).parent)


def save(figure: Any, out: str | Path) -> None:
    """Write the figure to a PNG file, with a white margin. Its folder is created if it is missing."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=_DPI, facecolor=BACKGROUND, bbox_inches='tight', pad_inches=_MARGIN)


def label_lines(axis: Any, names: Sequence[str], looks: Sequence[Look], points: Sequence[tuple[float, float]]) -> None:
    """Write the name of each line to the right of its last point; names that would overlap are moved up or down.

    Lines that end at about the same place on the x axis have their names in one column. So do lines that end earlier,
    if their names would run into those of later ones.

    Call it when the limits of the axis are final.

    Args:
        axis: The axis.
        names: The names.
        looks: The looks of the lines.
        points: The last point ``(x, y)`` of each line, in data coordinates.
    """
    figure = axis.get_figure()
    figure.draw_without_rendering()  # final limits and sizes
    to_axis = axis.transData + axis.transAxes.inverted()
    # In fractions of the axis: where the points are, and how high a line of text is.
    places = [(float(x), float(y)) for x, y in map(to_axis.transform, points)]
    gap = 1.2 * _LABEL_POINTS / (axis.get_position().height * figure.get_figheight() * 72)
    # About the width of a letter.
    letter = 0.6 * _LABEL_POINTS / (axis.get_position().width * figure.get_figwidth() * 72)
    for column in _columns(places, [letter * (1 + len(name)) for name in names], gap):
        right = max(places[index][0] for index in column)
        order = sorted(column, key=lambda index: places[index][1])
        for index, height in zip(order, _spread([places[index][1] for index in order], gap), strict=True):
            axis.annotate(
                names[index], (right, height), (7, 0), xycoords='axes fraction', textcoords='offset points',
                color=looks[index].ink, fontsize=_LABEL_POINTS, va='center', annotation_clip=False,
                fontweight='bold' if looks[index].linewidth > 2.5 else 'normal',
            )  # fmt: skip


def _columns(places: Sequence[tuple[float, float]], widths: Sequence[float], gap: float) -> list[list[int]]:
    """Indices of places ``(x, y)`` whose names, of these widths and the height ``gap``, are in one column."""
    columns: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda index: places[index][0]):
        if columns and places[index][0] - places[columns[-1][-1]][0] < _SAME_COLUMN:
            columns[-1].append(index)
        else:
            columns.append([index])
    apart: list[list[int]] = []
    for column in columns:
        left, heights = places[column[0]][0], [places[index][1] for index in column]
        near = [
            one
            for one in apart
            if any(places[i][0] + widths[i] > left and abs(places[i][1] - y) < gap for i in one for y in heights)
        ]
        apart = [one for one in apart if one not in near]
        apart.append([*(index for one in near for index in one), *column])
    return apart


def _spread(heights: list[float], gap: float) -> list[float]:
    """The closest increasing numbers to ``heights`` (increasing) that are at least ``gap`` apart.

    Blocks of names that touch are centred on the mean of their places, as in isotonic regression.
    """
    blocks: list[tuple[float, int]] = []  # sum of (height - its offset in the order), number
    for index, height in enumerate(heights):
        blocks.append((height - index * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            (left, m), (right, n) = blocks[-2:]
            blocks[-2:] = [(left + right, m + n)]
    starts = [total / number for total, number in blocks for _ in range(number)]
    return [start + index * gap for index, start in enumerate(starts)]


def name_of_place(path: str) -> str:
    """What a reader calls the part of a detector with this path, e.g. 'R-CNN' for 'roi_head.bbox_head.loss_cls'.

    A path that is not one of MMDetection's usual ones is returned without its underscores.
    """
    stage = re.search(r'bbox_head\.(\d+)', path)
    if 'rpn_head' in path:
        return 'RPN'
    if 'mask_head' in path:
        return 'mask head'
    if 'roi_head' in path:
        return f'R-CNN, stage {int(stage[1]) + 1}' if stage else 'R-CNN'
    if 'query_head' in path:
        return 'queries'
    if path.startswith(('bbox_head', 'loss_cls')):
        return 'dense head'
    return path.removesuffix('.loss_cls').replace('_', ' ').replace('.', ', ')
