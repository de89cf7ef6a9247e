"""Pictures from arrays: sheets of images.

The suffix of a path decides the format: .png, or .pdf and .svg with all words as text and the
images in their own pixels. The same call writes the same bytes.

N images, H W pixels, h w patch grid. Images are (N, H, W, 3) uint8 RGB; label maps, heat maps and
masks are (N, h, w); H should be a multiple of h. A mask is True where a patch is removed.
"""
import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

# Twelve colours for colour-blind readers (M. Krzywinski, "Color palettes for color blindness"), in
# our own order: the first six differ most for every kind of colour vision.
PALETTE = ('#009F81', '#8400CD', '#FFB2FD', '#A40122', '#FF6E3A', '#00FCCF', '#9F0162', '#FFC33B',
           '#008DF9', '#FF5AAF', '#E20134', '#00C2F9')
MASKED, DROPPED = 127, 236   # grey of a masked patch, and of a dropped one
MARGIN, GAP, HEAD = 16, 8, 24  # of a sheet, in pixels; HEAD holds the columns' titles
INK, PAPER = (34, 34, 34), (255, 255, 255)
SUFFIXES = ('.pdf', '.png', '.svg')
# Words stay text that can be searched and edited; no random ids; images are not merged.
VECTOR = {'pdf.fonttype': 42, 'svg.fonttype': 'none', 'svg.hashsalt': 'semmae',
          'image.composite_image': False}
DATES = {'.pdf': 'CreationDate', '.png': None, '.svg': 'Date'}  # metadata keys of the date


def part_colours(num: int) -> np.ndarray:
    """(num, 3) uint8: the palette; after twelve colours it repeats, each time darker."""
    colours = [np.array([int(PALETTE[k % 12][i:i + 2], 16) for i in (1, 3, 5)]) * .55 ** (k // 12)
               for k in range(num)]
    return np.array(colours).reshape(-1, 3).round().astype(np.uint8)


def part_sheet(images, label_maps, path, heat_maps=None, caption='', opacity=.88):
    """One row an image: image | one column for each label map | one for each heat map (Fig. 4).

    label_maps: {title: (N, h, w) int}; label k has the same colour in every column and row.
    heat_maps: {title: (N, h, w) float}, each map stretched from its smallest to its largest value.
    opacity: of the colours over the image in grey.
    """
    return mask_sheet(images, {}, path, label_maps, None, caption, opacity, heat_maps)


def mask_sheet(images, masks_by_title, path, label_maps=None, dropped=None, caption='',
               opacity=.88, heat_maps=None):
    """One row an image: image | label maps | heat maps | visible patches under each mask.

    masks_by_title: {title: (N, h, w) bool}. Masked patches are grey. ``dropped`` patches
    (N, h, w), which pre-training does not use, are pale.
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
    """Write columns [(title, (N, H, W, 3))] as a picture; legend [(label, colour)]; returns path.

    path: None writes nothing and returns the picture, (height, width, 3) uint8 RGB.
    Cells are enlarged without smoothing, so that every pixel of an array is a block of the picture.
    """
    path = None if path is None else picture_path(path)
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
    size, ascent = (right, bottom + below), font.getmetrics()[0]
    cells, texts, swatches = [], [], []
    for j, (title, pixels) in enumerate(columns):
        x, top = cell_origin(0, j, (height, width))
        fits = min(1, width / max(1, font.getlength(title)))
        texts.append((x, top - 6, title, max(7, 14 * fits)))
        cells += [(*cell_origin(i, j, (height, width)), pixels[i].astype(np.uint8))
                  for i in range(n)]
    for k, (label, colour) in enumerate(legend):
        x, y = MARGIN + k % keys * 48, bottom - 4 + k // keys * 28
        swatches.append((x, y, tuple(map(int, colour))))
        texts.append((x + 24, y + 1 + ascent, str(label), 14))
    y = bottom + below - MARGIN - 20 * len(lines) + ascent
    texts += [(MARGIN, y + 20 * i, line, 14) for i, line in enumerate(lines)]
    if path is not None and path.suffix.lower() != '.png':
        return save(vector_sheet(size, (height, width), cells, texts, swatches), path)
    picture = pixel_sheet(size, (height, width), cells, texts, swatches, font)
    if path is None:
        return np.array(picture)
    picture.save(path, format='PNG')
    return path


def pixel_sheet(size, cell, cells, texts, swatches, font):
    """A PIL image of ``size`` (width, height).

    cell: (height, width) at which each of cells [(x, y, pixels)] is shown.
    texts: [(x, y of the base line, text, font size)]. swatches: [(x, y, colour)].
    """
    picture = Image.new('RGB', size, PAPER)
    draw = ImageDraw.Draw(picture)
    for x, y, pixels in cells:
        picture.paste(Image.fromarray(pixels).resize(cell[::-1], Image.Resampling.NEAREST), (x, y))
    for x, y, colour in swatches:
        draw.rectangle((x, y, x + 18, y + 18), colour)
    for x, y, text, points in texts:
        draw.text((x, y), text, INK, font.font_variant(size=points), anchor='ls')
    return picture


def vector_sheet(size, cell, cells, texts, swatches):
    """The same sheet as a matplotlib figure, one point for each pixel."""
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    for x, y, pixels in cells:
        axes.imshow(pixels, extent=(x, x + cell[1], y + cell[0], y), interpolation='none',
                    aspect='auto')
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))  # imshow changes the limits
    for x, y, colour in swatches:
        axes.add_patch(Rectangle((x, y), 19, 19, color=np.array(colour) / 255, linewidth=0))
    for x, y, text, points in texts:
        axes.text(x, y, text, fontsize=points, family='DejaVu Sans', color=np.array(INK) / 255,
                  va='baseline', parse_math=False)
    return figure


def wrapped(text, font, width):
    """The lines of a text that is ``width`` pixels wide at most, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f'{lines[-1]} {word}') <= width:
            lines[-1] += f' {word}'
        else:
            lines.append(word)
    return lines


def picture_path(path):
    """The path of a picture, its folder made."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f'{path}: the suffix decides the format of a picture, expected a name '
                         f"ending in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(figure, path):
    """Write a figure in the format of the suffix, without a date; returns the path."""
    path = picture_path(path)
    suffix = path.suffix.lower()
    metadata = {DATES[suffix]: None} if DATES[suffix] else None
    with matplotlib.rc_context(VECTOR):
        figure.savefig(path, format=suffix[1:], metadata=metadata)
    return path
