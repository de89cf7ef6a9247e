"""Pictures inside a page: an SVG of `figures.save` with the colours of the page, or a PNG."""
import base64
import io
import re
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image

from .curves import GRID, LINES
from .figures import INK

PNG = b'\x89PNG\r\n\x1a\n'
# Colours that change with the scheme of the page, as variables of report.css.
SHEET = {'#000000': 'var(--ink)', '#{:02x}{:02x}{:02x}'.format(*INK): 'var(--ink)',
         '#ffffff': 'none'}
CURVES = {**SHEET, GRID: 'var(--line)',
          **{colour.lower(): f'var(--line-{k})' for k, colour in enumerate(LINES)}}


def picture(path, alt):
    """(width, height in CSS pixels, markup) of a picture in a page.

    alt: says what is seen. Raises ValueError for an incomplete PNG and for other files.
    """
    path = Path(path)
    return (svg if path.suffix == '.svg' else png)(path, alt)


def svg(path, alt):
    """`picture` of an SVG file that `figures.save` wrote."""
    text = path.read_text(encoding='utf-8')
    # Without rules for all elements and without clipping, which nothing here needs.
    text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<clipPath.*?</clipPath>|<!--.*?-->|'
                  r' clip-path="[^"]*"', '', text[text.index('<svg'):], flags=re.DOTALL)
    text = re.sub(r'\s*\n\s*', ' ', text)
    known = SHEET if '<image' in text else CURVES  # the legend of a sheet has colours of images
    text = re.sub(r'style="[^"]*"', lambda style: re.sub(
        r'(?<=: )#[0-9a-f]{6}', lambda colour: known.get(colour[0], colour[0]), style[0]), text)
    text = re.sub(r'( id="|href="#)', rf'\g<1>{path.stem}-', text)  # ids are unique in a page
    points = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert points, f'{path} is not of figures.save'
    width, height = (round(float(side) * 4 / 3) for side in points.groups())
    head = (f'<svg {points[0]} width="{width}" height="{height}" role="img" '
            f'aria-label="{escape(alt)}">')
    return width, height, Markup(head + text[text.index('>') + 1:])


def png(path, alt):
    """`picture` of a PNG file, as data in the page."""
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f'{path} is not a PNG file; the report takes the pictures of '
                         'semmae.reporting.figures')
    try:
        with Image.open(io.BytesIO(content)) as image:
            scale = 96 / image.info.get('dpi', (96,))[0]
            width, height = (round(side * scale) for side in image.size)
            image.verify()  # checksums: a browser shows a damaged picture in part
    except Exception as error:
        raise ValueError(f'{path} is damaged: {error}. Make the picture again') from None
    return width, height, Markup('<img src="data:image/png;base64,{}" alt="{}" width="{}" '
                                 'height="{}">').format(base64.b64encode(content).decode(), alt,
                                                        width, height)
