"""Pictures from arrays and log files: sheets of images, curves. Imports neither torch nor mm*.

N images, H W pixels, h w patch grid. Images are (N, H, W, 3) uint8 RGB; label maps, heat maps and
masks are (N, h, w), where H is best a multiple of h. A mask is True where a patch is removed.
"""
import json
import math
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

# Twelve colours for colour-blind readers (M. Krzywinski, "Color palettes for color blindness"), in
# an order of ours in which the first six differ most for every kind of colour vision.
PALETTE = ('#009F81', '#8400CD', '#FFB2FD', '#A40122', '#FF6E3A', '#00FCCF', '#9F0162', '#FFC33B',
           '#008DF9', '#FF5AAF', '#E20134', '#00C2F9')
LINES = ('#008DF9', '#A40122', '#009F81', '#8400CD', '#FF6E3A', '#333333')  # dark enough for a line
MASKED, DROPPED = 127, 236   # grey of a masked patch; of one that takes no part at all
MARGIN, GAP, HEAD = 16, 8, 24  # of a sheet, in pixels; HEAD holds the columns' titles
INK, PAPER = (34, 34, 34), (255, 255, 255)


def part_colours(num: int) -> np.ndarray:
    """(num, 3) uint8: the palette; beyond twelve it begins again, each time darker."""
    colours = [np.array([int(PALETTE[k % 12][i:i + 2], 16) for i in (1, 3, 5)]) * .55 ** (k // 12)
               for k in range(num)]
    return np.array(colours).reshape(-1, 3).round().astype(np.uint8)


def part_sheet(images, label_maps, path, heat_maps=None, caption='', opacity=.88):
    """One row an image: image | one column for each label map | one for each heat map (Fig. 4).

    label_maps: {title: (N, h, w) int}; label k has the same colour in every column and row.
    heat_maps: {title: (N, h, w) float}, each map stretched from its smallest to its largest value.
    opacity: of the colours over the image in grey.
    """
    images = checked(images)
    columns = [('image', images), *overlays(images, label_maps, opacity)]
    columns += [(title, heat(enlarged(maps, images))) for title, maps in (heat_maps or {}).items()]
    return sheet(columns, path, caption, legend=legend_of(label_maps))


def mask_sheet(images, masks_by_title, path, label_maps=None, dropped=None, caption='',
               opacity=.88, heat_maps=None):
    """One row an image: image | label maps | heat maps | what each mask leaves visible.

    masks_by_title: {title: (N, h, w) bool}. Masked patches are grey; ``dropped`` ones (N, h, w),
    which take no part in pre-training, are pale.
    """
    images = checked(images)
    columns = [('image', images), *overlays(images, label_maps or {}, opacity)]
    columns += [(title, heat(enlarged(maps, images))) for title, maps in (heat_maps or {}).items()]
    columns += [(title, hide(images, masks, dropped)) for title, masks in masks_by_title.items()]
    return sheet(columns, path, caption, legend=legend_of(label_maps or {}))


def reconstruction_sheet(images, masked, reconstructions, path, caption=''):
    """One row an image: image | visible patches | reconstruction, all (N, H, W, 3) uint8."""
    return sheet([('image', checked(images)), ('visible patches', checked(masked)),
                  ('reconstruction', checked(reconstructions))], path, caption)


def heat_sheet(images, heat_maps, path, caption=''):
    """One row an image: image | one column for each heat map of {title: (N, h, w) float}."""
    return part_sheet(images, {}, path, heat_maps, caption)


def overlays(images, label_maps, opacity):
    """[(title, (N, H, W, 3))]: the colours of the labels over the images in grey."""
    grey = images @ np.array([.299, .587, .114])
    return [(title, (opacity * part_colours(int(np.max(maps)) + 1)[enlarged(maps, images)]
                     + (1 - opacity) * grey[..., None]).round())
            for title, maps in label_maps.items()]


def legend_of(label_maps):
    """[(label, colour)] up to the highest label of all maps."""
    highest = max((int(np.max(maps)) for maps in label_maps.values()), default=-1)
    return list(enumerate(part_colours(highest + 1)))


def hide(images, masks, dropped=None):
    """The images with masked patches grey and dropped ones pale; masks, dropped (N, h, w) bool."""
    shown = checked(images).copy()
    shown[enlarged(np.asarray(masks, bool), images)] = MASKED
    if dropped is not None:
        shown[enlarged(np.asarray(dropped, bool), images)] = DROPPED
    return shown


def heat(maps):
    """(N, h, w, 3) uint8 colours of maps (N, h, w), each stretched to its own range."""
    low = maps.min((1, 2), keepdims=True)
    span = np.maximum(maps.max((1, 2), keepdims=True) - low, 1e-12)
    return matplotlib.colormaps['inferno']((maps - low) / span, bytes=True)[..., :3]


def checked(images):
    """The images as an array, or a ValueError."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f'images are {images.dtype} of shape {images.shape}, expected uint8 RGB '
                         'of shape (N, H, W, 3), at least one')
    return images


def enlarged(maps, images):
    """Maps (N, h, w) at the size of the images (N, H, W, 3): each pixel has its patch's value."""
    maps, (n, height, width) = np.asarray(maps), np.shape(images)[:3]
    if maps.ndim != 3 or len(maps) != n:
        raise ValueError(f'maps have shape {maps.shape}, expected (N, h, w) for {n} images')
    rows = np.arange(height) * maps.shape[1] // height
    columns = np.arange(width) * maps.shape[2] // width
    return maps[:, rows[:, None], columns]


def cell_size(height, width):
    """(height, width) of a cell: small images are enlarged by a whole number."""
    times = max(1, round(192 / max(height, width)))
    return height * times, width * times


def cell_origin(row, column, size):
    """(x, y) of the upper left pixel of a cell of ``size`` (height, width)."""
    return MARGIN + column * (size[1] + GAP), MARGIN + HEAD + row * (size[0] + GAP)


def sheet(columns, path, caption='', legend=()):
    """Write a PNG of columns [(title, (N, H, W, 3))]; legend [(label, colour)]; returns the path.

    path: None writes nothing and returns the picture, (height, width, 3) uint8 RGB.
    Cells are enlarged without smoothing, so that every pixel of an array is a block of the PNG.
    """
    path = None if path is None else png(path)
    n, *shape = columns[0][1].shape[:3]
    if any(pixels.shape[:3] != (n, *shape) for _, pixels in columns):
        raise ValueError(f'columns of different shapes: '
                         f'{[(title, pixels.shape) for title, pixels in columns]}')
    height, width = cell_size(*shape)
    font = ImageFont.truetype(font_manager.findfont('DejaVu Sans'), 14)
    right, bottom = cell_origin(n, len(columns), (height, width))
    right, bottom = right - GAP + MARGIN, bottom - GAP + MARGIN
    lines = wrapped(caption, font, right - 2 * MARGIN)
    keys = max(1, (right - 2 * MARGIN) // 48)  # swatches in a line
    below = 28 * math.ceil(len(legend) / keys) + 20 * len(lines) + (MARGIN if lines else 0)
    canvas = Image.new('RGB', (right, bottom + below), PAPER)
    draw = ImageDraw.Draw(canvas)
    for j, (title, pixels) in enumerate(columns):
        x, top = cell_origin(0, j, (height, width))
        fits = min(1, width / max(1, font.getlength(title)))
        draw.text((x, top - 6), title, INK, font.font_variant(size=max(7, 14 * fits)), anchor='ls')
        for i in range(n):
            cell = Image.fromarray(pixels[i].astype(np.uint8))
            canvas.paste(cell.resize((width, height), Image.Resampling.NEAREST),
                         cell_origin(i, j, (height, width)))
    for k, (label, colour) in enumerate(legend):
        x, y = MARGIN + k % keys * 48, bottom - 4 + k // keys * 28
        draw.rectangle((x, y, x + 18, y + 18), tuple(map(int, colour)))
        draw.text((x + 24, y + 1), str(label), INK, font)
    y = bottom + below - MARGIN - 20 * len(lines)
    for i, line in enumerate(lines):
        draw.text((MARGIN, y + 20 * i), line, INK, font)
    if path is None:
        return np.array(canvas)
    canvas.save(path, format='PNG')
    return path


def wrapped(text, font, width):
    """The lines of a text that is ``width`` pixels wide at most, broken at spaces."""
    lines = []
    for word in text.split():
        if lines and font.getlength(f'{lines[-1]} {word}') <= width:
            lines[-1] += f' {word}'
        else:
            lines.append(word)
    return lines


def png(path):
    """The path of a PNG, its folder made."""
    path = Path(path)
    if path.suffix.lower() != '.png':
        raise ValueError(f'{path}: pictures are written as PNG, expected a name ending in .png')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def loss_curves(series, path, xlabel='iteration', ylabel='loss'):
    """Curves {title: [(step, loss)]}, one line each, into a PNG; NaN and infinity leave a gap."""
    if not any(points for points in series.values()):
        raise ValueError(f'nothing to draw: the series {list(series)} hold no point')
    figure, axes = canvas(xlabel, ylabel)
    for k, (title, points) in enumerate(series.items()):
        steps, values = np.array(points, float).reshape(-1, 2).T
        axes.plot(steps, np.where(np.isfinite(values), values, np.nan), label=title, linewidth=1.8,
                  color=LINES[k % len(LINES)], linestyle=('-', '--', ':')[k // len(LINES) % 3],
                  marker='.' if len(points) < 3 else None)
    axes.legend(frameon=False)
    return save(figure, path)


def alpha_curves(path, gammas=(1 / 3, 1 / 2, 1, 2, 3)):
    """alpha = progress ** gamma over the pre-training (Fig. 3; Algorithm 1, line 7), into a PNG."""
    figure, axes = canvas('share of the pre-training', 'α')
    progress = np.linspace(0, 1, 201)
    for k, gamma in enumerate(gammas):
        name = Fraction(gamma).limit_denominator(100)
        axes.plot(progress, progress ** gamma, color=LINES[k % len(LINES)], linewidth=1.8,
                  linestyle=('-', '--', ':')[k // len(LINES) % 3], label=f'γ = {name}')
    axes.set(xlim=(0, 1), ylim=(0, 1.01), title='α = 0: patches of every part;  α = 1: whole parts')
    axes.legend(frameon=False, loc='upper left')
    return save(figure, path)


def canvas(xlabel, ylabel):
    """(figure, axes) in the one style of all curves. No pyplot: nothing global, no display."""
    figure = Figure(figsize=(6.4, 4), dpi=150, layout='constrained')
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.title.set_fontsize(10)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color='#e4e4e4', linewidth=.7)
    return figure, axes


def save(figure, path):
    figure.savefig(png(path), format='png')
    return Path(path)


def read_scalars(work_dir) -> dict:
    """{key: [(step, value)]} of all runs in a work directory, sorted by step, as mmengine logs it.

    Every (re)start has its own folder, named by its time; they are joined, and the last value of a
    step wins. Steps are iterations for training and, in epoch-based runs, epochs for validation;
    the times of validations are left out, since they share their keys with those of training. Lines
    that a killed run left half written are skipped.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no */vis_data/scalars.json below {work_dir}; expected the work '
                                'directory of a training (tools/train.py --work-dir)')
    found = {}
    for file in files:
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                scalars = json.loads(line)
            except ValueError:
                continue
            if not isinstance(scalars, dict) or not isinstance(scalars.get('step'), int):
                continue
            is_validation = 'iter' not in scalars
            for key, value in scalars.items():
                if key == 'step' or is_validation and key in ('time', 'data_time'):
                    continue
                if isinstance(value, (int, float)):
                    found.setdefault(key, {})[scalars['step']] = float(value)
    return {key: sorted(points.items()) for key, points in found.items()}
