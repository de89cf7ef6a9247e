import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semmae.functional.masking import alpha_at
from semmae.reporting import figures
from semmae.reporting.figures import (
    DROPPED,
    MASKED,
    PALETTE,
    alpha_curves,
    cell_origin,
    cell_size,
    heat_sheet,
    loss_curves,
    mask_sheet,
    part_colours,
    part_sheet,
    read_scalars,
    reconstruction_sheet,
)

REPO = Path(__file__).parents[2]

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


def test_every_figure_is_a_readable_png_in_a_folder_made_for_it(tmp_path):
    images, grid = dark_images(), np.zeros((2, 4, 4), int)
    made = [part_sheet(images, {'p': grid}, tmp_path / 'a' / '1.png', heat_maps={'f': grid + 0.}),
            mask_sheet(images, {'m': grid == 1}, tmp_path / 'a' / '2.png'),
            reconstruction_sheet(images, images, images, tmp_path / 'a' / '3.png'),
            heat_sheet(images, {'f': grid + 0.}, tmp_path / 'a' / '4.png'),
            loss_curves({'a': [(1, 2.), (2, 1.)]}, tmp_path / 'a' / '5.png'),
            alpha_curves(tmp_path / 'a' / '6.png')]
    for path in made:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == 'PNG' and np.array(picture.convert('L')).std() > 1, path


@pytest.mark.parametrize('draw, message', [
    (lambda out: reconstruction_sheet(np.zeros((1, 4, 4, 3)), [], [], out), 'float64 .* uint8 RGB'),
    (lambda out: mask_sheet(dark_images(2), {'m': np.zeros((1, 4, 4), bool)}, out), '2 images'),
    (lambda out: mask_sheet(dark_images(2), {'m': np.zeros((2, 16), bool)}, out), r'\(N, h, w\)'),
    (lambda out: reconstruction_sheet(dark_images(2), dark_images(2), dark_images(1), out),
     'different shapes'),
    (lambda out: alpha_curves(out.with_suffix('.jpg')), 'ending in .png'),
    (lambda out: loss_curves({'MAE': []}, out), r"series \['MAE'\] hold no point")])
def test_what_cannot_be_drawn_is_refused_with_what_was_expected(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / 'x.png')


def lines_of(figure):
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


def test_alpha_curves_are_those_of_algorithm_1(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, 'save', lambda figure, path: drawn.update(lines_of(figure)))
    alpha_curves(tmp_path / 'x.png')
    assert list(drawn) == ['γ = 1/3', 'γ = 1/2', 'γ = 1', 'γ = 2', 'γ = 3']
    for (_, points), gamma in zip(drawn.items(), (1 / 3, 1 / 2, 1, 2, 3)):
        assert points[:, 1] == pytest.approx([alpha_at(x, gamma) for x in points[:, 0]])


def test_loss_curves_leave_a_gap_where_the_loss_is_not_finite(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, 'save', lambda figure, path: drawn.update(lines_of(figure)))
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


def test_figures_and_report_import_neither_torch_nor_openmmlab():
    code = ('import sys, semmae.reporting.figures, semmae.reporting.report; '
            'print({"torch", "mmengine", "mmcv", "mmpretrain", "mmseg"} & set(sys.modules))')
    found = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
    assert found.stdout.strip() == 'set()', found.stderr
