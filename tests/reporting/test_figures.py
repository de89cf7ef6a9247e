import base64
import io
import json
import math
import re
import shutil
import subprocess
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from semmae.functional.masking import alpha_at
from semmae.reporting import curves, figures
from semmae.reporting.curves import alpha_curves, loss_curves, read_scalars, training_curves
from semmae.reporting.figures import (
    DROPPED,
    MASKED,
    PALETTE,
    cell_origin,
    cell_size,
    heat_sheet,
    mask_sheet,
    part_colours,
    part_sheet,
    reconstruction_sheet,
    save,
    sheet,
)
from tests.tiny import tool

# Simulated colour vision on linear RGB: Machado, Oliveira & Fernandes 2009, severity 1.
VISION = dict(
    normal=np.eye(3),
    protanopia=[[.152286, 1.052583, -.204868], [.114503, .786281, .099216],
                [-.003882, -.048116, 1.051998]],
    deuteranopia=[[.367322, .860646, -.227968], [.280085, .672501, .047413],
                  [-.011820, .042940, .968881]],
    tritanopia=[[1.255528, -.076749, -.178779], [-.078411, .930809, .147602],
                [.004733, .691367, .303900]])


def dark_images(num=2, size=32):
    """Random pixels, all darker than the grey of a mask."""
    return np.random.default_rng(0).integers(0, 100, (num, size, size, 3), dtype=np.uint8)


def cell(path, row, column, size=(32, 32)):
    """The array a cell of a sheet was made of: the enlargement is undone exactly."""
    height, width = cell_size(*size)
    x, y = cell_origin(row, column, (height, width))
    with Image.open(path) as sheet:
        pixels = np.array(sheet.convert('RGB'))[y:y + height, x:x + width]
    times = height // size[0]
    assert (pixels == pixels[::times, ::times].repeat(times, 0).repeat(times, 1)).all()
    return pixels[::times, ::times]


def test_masked_patches_are_grey_where_the_mask_says_and_visible_ones_untouched(tmp_path):
    images, masks = dark_images(), np.zeros((2, 4, 4), bool)
    masks[0, 1, 2] = masks[1, 3] = True
    path = mask_sheet(images, {'mask': masks}, tmp_path / 'masks.png')
    first, second = cell(path, 0, 1), cell(path, 1, 1)
    assert (first[8:16, 16:24] == MASKED).all()
    assert (first == MASKED).all(-1).sum() == 64
    assert (second[24:] == MASKED).all() and (second[:24] == images[1, :24]).all()
    assert (cell(path, 0, 0) == images[0]).all()


def test_dropped_patches_are_pale_whether_masked_or_not(tmp_path):
    masks = np.ones((1, 4, 4), bool)
    dropped = np.zeros((1, 4, 4), bool)
    dropped[0, 0, 0] = True
    path = mask_sheet(dark_images(1), {'all': masks, 'none': ~masks}, tmp_path / 'masks.png',
                      dropped=dropped)
    assert (cell(path, 0, 1)[:8, :8] == DROPPED).all()
    assert (cell(path, 0, 2)[:8, :8] == DROPPED).all()
    assert (cell(path, 0, 1)[8:, 8:] == MASKED).all()


def test_a_part_has_the_same_colour_in_every_image_and_column(tmp_path):
    ids = np.zeros((2, 4, 4), int)
    ids[0, 0, 0] = ids[1, 3, 3] = 5
    path = part_sheet(dark_images(), {'heads': ids, 'parts': 5 - ids}, tmp_path / 'parts.png',
                      opacity=1)
    five, none = part_colours(6)[[5, 0]]
    assert (cell(path, 0, 1)[:8, :8] == five).all() and (cell(path, 1, 1)[24:, 24:] == five).all()
    assert (cell(path, 0, 1)[8:] == none).all()
    assert (cell(path, 1, 2)[0, 0] == five).all()
    # The highest label of a figure does not change the colours of the others.
    alone = part_sheet(dark_images(), {'parts': ids * 0}, tmp_path / 'alone.png', opacity=1)
    assert (cell(alone, 0, 1) == none).all()


def test_no_two_part_colours_are_confused_with_the_image_behind_them(tmp_path):
    ids = np.arange(6).reshape(1, 2, 3)
    sheets = [part_sheet(np.full((1, 6, 6, 3), grey, np.uint8), {'parts': ids},
                         tmp_path / f'{grey}.png') for grey in (0, 255)]
    seen = [cell(path, 0, 1, (6, 6))[::3, ::2].reshape(6, 3).astype(int) for path in sheets]
    for a, b in combinations(range(6), 2):
        for one in seen:
            for other in seen:
                assert np.abs(one[a] - other[b]).max() > np.abs(seen[0][a] - seen[1][a]).max()


def test_the_palette_is_distinct_for_every_kind_of_colour_vision():
    assert len(set(PALETTE)) == 12
    rgb = part_colours(12) / 255
    linear = np.where(rgb <= .04045, rgb / 12.92, ((rgb + .055) / 1.055) ** 2.4)
    to_xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]])
    for name, matrix in VISION.items():
        xyz = (linear @ np.transpose(matrix)).clip(0, 1) @ to_xyz.T / [.9505, 1, 1.089]
        x, y, z = np.where(xyz > .008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
        distance = np.linalg.norm(lab[:, None] - lab, axis=-1) + 1e3 * np.eye(12)
        assert distance[:6, :6].min() > 25, name   # 2.3 is just noticeable
        assert distance.min() > 3, name


def test_the_thirteenth_part_is_a_darker_first_one():
    colours = part_colours(13).astype(int)
    assert len(np.unique(colours, axis=0)) == 13
    assert (colours[12] <= colours[0]).all() and np.abs(colours[12] - .55 * colours[0]).max() <= .5


def test_heat_is_darkest_at_the_lowest_and_brightest_at_the_highest_score(tmp_path):
    maps = np.arange(16.).reshape(1, 4, 4)
    path = heat_sheet(dark_images(1), {'score': maps}, tmp_path / 'heat.png')
    brightness = cell(path, 0, 1)[::8, ::8].sum(-1, dtype=int).flatten()
    assert (np.diff(brightness) > 0).all()
    flat = heat_sheet(dark_images(1), {'flat': maps * 0}, tmp_path / 'flat.png')
    assert len(np.unique(cell(flat, 0, 1).reshape(-1, 3), axis=0)) == 1


def test_true_patches_as_predictions_reproduce_the_image(tmp_path):
    images = dark_images()
    hidden = figures.hide(images, np.eye(4, dtype=bool)[None].repeat(2, 0))
    path = reconstruction_sheet(images, hidden, images.copy(), tmp_path / 'r.png', 'A caption.')
    for row in range(2):
        assert (cell(path, row, 2) == cell(path, row, 0)).all()
        assert (cell(path, row, 1) == hidden[row]).all()


def test_images_are_not_changed_by_drawing(tmp_path):
    images = dark_images()
    before = images.copy()
    mask_sheet(images, {'mask': np.ones((2, 4, 4), bool)}, tmp_path / 'm.png',
               label_maps={'parts': np.ones((2, 4, 4), int)})
    assert (images == before).all()


def test_a_long_caption_and_many_parts_make_the_sheet_longer_not_wider(tmp_path):
    ids = np.arange(16).reshape(1, 4, 4)
    short = part_sheet(dark_images(1), {'p': ids}, tmp_path / 'short.png', caption='Few words.')
    long = part_sheet(dark_images(1), {'p': ids}, tmp_path / 'long.png', caption='words ' * 200)
    with Image.open(short) as a, Image.open(long) as b:
        assert a.width == b.width and b.height > a.height + 100
        bottom = np.array(b)[-figures.MARGIN:]
    assert (bottom > 250).all(-1).mean() > .9  # the last line of the caption is inside


@pytest.mark.parametrize('draw, message', [
    (lambda out: reconstruction_sheet(np.zeros((1, 4, 4, 3)), [], [], out), 'float64 .* uint8 RGB'),
    (lambda out: mask_sheet(dark_images(2), {'m': np.zeros((1, 4, 4), bool)}, out), '2 images'),
    (lambda out: mask_sheet(dark_images(2), {'m': np.zeros((2, 16), bool)}, out), r'\(N, h, w\)'),
    (lambda out: reconstruction_sheet(dark_images(2), dark_images(2), dark_images(1), out),
     'different shapes'),
    (lambda out: alpha_curves(out.with_suffix('.jpg')), r'x.jpg.* in .pdf, .png or .svg'),
    (lambda out: heat_sheet(dark_images(1), {}, out.with_suffix('')), r'.pdf, .png or .svg'),
    (lambda out: loss_curves({'MAE': []}, out), r"series \['MAE'\] hold no point")])
def test_what_cannot_be_drawn_is_refused_with_what_was_expected(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / 'x.png')


def drawings(work_dir):
    """{name: (draw(path), words that have to stand in the picture)}; small, one of every kind."""
    images, grid = dark_images(), np.zeros((2, 4, 4), int)
    grid[0, 0, 0] = 11
    log(work_dir, '20250101_000000', train_line(1, 9.), train_line(2, 8.))
    return dict(
        sheet=(lambda out: sheet([('only column', images)], out, 'A short caption.'),
               ['only column', 'A short caption.']),
        parts=(lambda out: part_sheet(images, {'learned parts': grid}, out,
                                      {'foreground': grid + 0.}, 'Costs $5 & <more>_{x}.'),
               ['image', 'learned parts', 'foreground', 'Costs $5 & <more>_{x}.', '11']),
        strategies=(lambda out: mask_sheet(images, {'random': grid > 9, 'α = 0.5': grid < 9}, out,
                                           {'parts': grid}, heat_maps={'attention': grid + 0.}),
                    ['parts', 'attention', 'random', 'α = 0.5', '11']),
        reconstruction=(lambda out: reconstruction_sheet(images, images, images, out),
                        ['visible patches', 'reconstruction']),
        heat=(lambda out: heat_sheet(images, {'head 0': grid + 0.}, out), ['head 0']),
        loss=(lambda out: loss_curves({'SemMAE, $\\x': [(1, 2.), (2, 1.)]}, out),
              ['SemMAE, $\\x', 'iteration', 'loss']),
        training=(lambda out: training_curves([work_dir], out), [work_dir.name, 'iteration']),
        alpha=(alpha_curves, ['γ = 1/3', 'γ = 3', 'share of the pre-training']))


DRAWINGS = ['sheet', 'parts', 'strategies', 'reconstruction', 'heat', 'loss', 'training', 'alpha']


def words_of(path):
    """The text of a PDF or SVG, which is text and not curves."""
    if path.suffix == '.svg':
        texts = ElementTree.parse(path).iter('{http://www.w3.org/2000/svg}text')
        return '\n'.join(''.join(text.itertext()) for text in texts)
    return subprocess.run(['pdftotext', '-layout', path, '-'], capture_output=True, text=True,
                          check=True).stdout


@pytest.mark.parametrize('name', DRAWINGS)
def test_each_drawing_has_the_format_of_its_suffix_and_its_words_as_text(name, tmp_path):
    draw, words = drawings(tmp_path / 'run')[name]
    png, svg, pdf = (draw(tmp_path / f'new/x{suffix}') for suffix in ('.png', '.svg', '.pdf'))
    with Image.open(png) as picture:
        assert picture.format == 'PNG' and np.array(picture.convert('L')).std() > 1
    found = words_of(svg)
    assert [word for word in words if word not in found] == []
    if shutil.which('pdftotext'):
        found = words_of(pdf).replace(' ', '')  # it guesses the spaces
        assert [word for word in words if word.replace(' ', '') not in found] == []


@pytest.mark.parametrize('suffix', ['.pdf', '.png', '.svg'])
@pytest.mark.parametrize('name', ['strategies', 'loss'])  # a sheet and curves: two ways to write
def test_two_runs_write_the_same_bytes_without_a_date(name, suffix, tmp_path):
    draw, _ = drawings(tmp_path / 'run')[name]
    once, again = (draw(tmp_path / folder / f'x{suffix}').read_bytes() for folder in 'ab')
    assert once == again and once.startswith(
        {'.pdf': b'%PDF-', '.png': b'\x89PNG', '.svg': b'<?xml'}[suffix])
    assert b'CreationDate' not in once and b'dc:date' not in once


def test_a_pdf_embeds_its_font_as_truetype_and_its_words_as_strings(tmp_path):
    with matplotlib.rc_context({'pdf.compression': 0}):
        path = sheet([('only column', dark_images())], tmp_path / 'x.pdf', 'A short caption.')
    content = path.read_bytes()
    assert b'/CIDFontType2' in content or b'/TrueType' in content
    assert b'/Type3' not in content and re.search(rb'\bT[Jj]\b', content)


def test_images_in_an_svg_are_the_arrays_themselves_and_shown_without_smoothing(tmp_path):
    images, ids = dark_images(), np.arange(16).reshape(1, 4, 4).repeat(2, 0)
    path = part_sheet(images, {'parts': ids}, tmp_path / 'x.svg', opacity=1)
    found = list(ElementTree.parse(path).iter('{http://www.w3.org/2000/svg}image'))
    assert len(found) == 4 and all('pixelated' in image.get('style') for image in found)
    shown = []
    for image in found:
        data = image.get('{http://www.w3.org/1999/xlink}href').split('base64,')[1]
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            pixels = np.array(picture.convert('RGB'))
        upside_down = [float(number) for number in re.findall(
            r'[-.\d]+', image.get('transform').split('scale(')[-1])][1] < 0
        shown.append(pixels[::-1] if upside_down else pixels)
    png = part_sheet(images, {'parts': ids}, tmp_path / 'x.png', opacity=1)
    for pixels, (column, row) in zip(shown, ((0, 0), (0, 1), (1, 0), (1, 1))):
        assert (pixels == cell(png, row, column)).all()


@pytest.mark.skipif(shutil.which('pdftoppm') is None, reason='pdftoppm is not installed')
def test_a_pdf_shows_the_cells_of_the_png_at_the_same_places(tmp_path):
    images, masks = dark_images(), np.zeros((2, 4, 4), bool)
    masks[0, 1, 2] = masks[1, 3] = True
    pdf, png = (mask_sheet(images, {'mask': masks}, tmp_path / f'x{suffix}', caption='Words.')
                for suffix in ('.pdf', '.png'))
    subprocess.run(['pdftoppm', '-r', '72', '-png', '-singlefile', pdf, tmp_path / 'seen'],
                   check=True)
    with Image.open(tmp_path / 'seen.png') as seen, Image.open(png) as drawn:
        assert seen.size == drawn.size
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        height, width = cell_size(32, 32)
        x, y = cell_origin(row, column, (height, width))
        with Image.open(tmp_path / 'seen.png') as seen:
            pixels = np.array(seen.convert('RGB'))[y:y + height, x:x + width]
        middles = pixels[3::6, 3::6].astype(int)  # each image pixel is a block of 6x6
        assert np.abs(middles - cell(png, row, column)).max() <= 1


def test_the_settings_of_other_figures_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    save(curves.canvas('x', 'y')[0], tmp_path / 'x.svg')
    assert dict(matplotlib.rcParams) == before


def test_training_curves_are_named_by_folder_or_by_path_where_folders_share_a_name(tmp_path):
    for folder in ('seed0/mae', 'seed1/mae', 'seed0/semmae'):
        log(tmp_path / folder, '20250101_000000', train_line(1, 9.), train_line(2, 8.))
    drawn = words_of(training_curves([tmp_path / 'seed0' / 'mae', tmp_path / 'seed0' / 'semmae'],
                                     tmp_path / 'x.svg', 'lr')).split('\n')
    assert {'mae', 'semmae', 'lr', 'step (iteration or epoch)'} <= set(drawn)
    drawn = words_of(training_curves([tmp_path / 'seed0' / 'mae', tmp_path / 'seed1' / 'mae'],
                                     tmp_path / 'x.svg')).split('\n')
    assert {str(tmp_path / 'seed0' / 'mae'), str(tmp_path / 'seed1' / 'mae')} <= set(drawn)
    with pytest.raises(ValueError, match='logs no mIoU; expected one of .*loss, lr'):
        training_curves([tmp_path / 'seed0' / 'mae'], tmp_path / 'y.svg', 'mIoU')
    assert not (tmp_path / 'y.svg').exists()


def test_the_tool_draws_curves_and_alpha(tmp_path):
    log(tmp_path / 'mae', '20250101_000000', train_line(1, 9.), train_line(2, 8.))
    for words in (['curves', tmp_path / 'mae', '--key', 'lr'], ['alpha']):
        out = tmp_path / f'{words[0]}.svg'
        done = tool('visualize', *words, '--out', out)
        assert out.is_file() and f'{words[0]} -> {out}' in done.stdout, done.stderr


def drawn_lines(monkeypatch):
    """{label: points} of the lines of each figure that is saved from now on."""
    drawn = {}
    monkeypatch.setattr(curves, 'save', lambda figure, path: drawn.update(
        {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}))
    return drawn


def test_alpha_curves_are_those_of_algorithm_1(tmp_path, monkeypatch):
    drawn = drawn_lines(monkeypatch)
    alpha_curves(tmp_path / 'x.png')
    assert list(drawn) == ['γ = 1/3', 'γ = 1/2', 'γ = 1', 'γ = 2', 'γ = 3']
    for (_, points), gamma in zip(drawn.items(), (1 / 3, 1 / 2, 1, 2, 3)):
        assert points[:, 1] == pytest.approx([alpha_at(x, gamma) for x in points[:, 0]])


def test_loss_curves_leave_a_gap_where_the_loss_is_not_finite(tmp_path, monkeypatch):
    drawn = drawn_lines(monkeypatch)
    loss_curves({'a': [(1, 2.), (2, math.inf), (3, math.nan), (4, 1.)], 'b': [(1, 1.)]},
                tmp_path / 'x.png')
    assert np.isnan(drawn['a'][1:3, 1]).all() and drawn['a'][[0, 3], 1].tolist() == [2, 1]


def log(work_dir, start, *lines):
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_bytes(b'\n'.join(
        line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))


def train_line(step, loss):
    return dict(lr=.1, data_time=.01, loss=loss, time=.1, epoch=1, iter=step, step=step)


def test_read_scalars_joins_restarts_and_the_last_value_of_a_step_wins(tmp_path):
    log(tmp_path, '20250102_000000', train_line(2, 7.), train_line(3, 6.))   # resumed from step 1
    log(tmp_path, '20250101_000000', train_line(1, 9.), train_line(2, 8.))
    (tmp_path / '20250103_000000').mkdir()                                   # a test has no scalars
    assert read_scalars(tmp_path)['loss'] == [(1, 9.), (2, 7.), (3, 6.)]


def test_read_scalars_skips_torn_and_foreign_lines_and_keeps_nan(tmp_path):
    log(tmp_path, '20250101_000000', train_line(1, 9.), b'', b'[1, 2]', b'{"loss": 3}',
        b'\xff\xfe{', train_line(2, math.nan), b'{"loss": 5.0, "iter": 3, "st')
    with pytest.warns(UserWarning, match='scalars.json: 4 of 6 lines damaged'):
        (first, second) = read_scalars(tmp_path)['loss']
    assert first == (1, 9.) and second[0] == 2 and math.isnan(second[1])


@pytest.mark.filterwarnings('ignore:.*damaged and skipped')
def test_read_scalars_survives_numbers_without_bound_and_endless_brackets(tmp_path):
    huge = b'9' * 400
    log(tmp_path, '20250101_000000', train_line(1, 9.), b'[' * 100_000,
        b'{"loss": ' + huge + b', "iter": 2, "step": 2}', b'{"loss": 1.0, "step": ' + huge + b'}')
    (first, second) = read_scalars(tmp_path)['loss']
    assert first == (1, 9.) and second[0] == 2 and math.isnan(second[1])


def test_validation_does_not_mix_its_epochs_into_the_iterations_of_training(tmp_path):
    log(tmp_path, '20250101_000000', train_line(1, 9.),
        {'accuracy/top1': 50., 'data_time': 7., 'time': 7., 'step': 1})
    scalars = read_scalars(tmp_path)
    assert scalars['accuracy/top1'] == [(1, 50.)] and scalars['time'] == [(1, .1)]


def test_a_folder_that_is_no_work_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}.*tools/train.py'):
        read_scalars(tmp_path)
