"""Pictures of the mini configs with random weights, on images and part stores written here."""
import json
import re
import shutil
from html import unescape

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from semmae.datasets.part_store import PartStoreWriter, list_images
from semmae.functional.patches import normalize_patches, patchify
from semmae.models import SemMAE
from semmae.parts.learner import LearnerSource
from semmae.registry import MODELS
from semmae.reporting.figures import DROPPED, MASKED, cell_origin, cell_size, part_colours
from semmae.results.results import append_result
from semmae.visualization import pictures
from semmae.visualization.folder_report import write_folder_report
from semmae.visualization.pictures import MaskSource

from ..tiny import REPO, tool

MINI = REPO / 'mm_configs' / 'mini'
LEARNER, MAE, FOREGROUND = (MINI / f'{name}.py' for name in (
    'semmae_parts_mini', 'mae_p16_mini', 'semmae_pretrain_mini'))  # grids 12, 8 and 16


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Five smooth 64x64 images, every pixel darker than the grey of a mask."""
    folder = tmp_path_factory.mktemp('photos')
    y, x = np.mgrid[:64, :64] / 10
    for k in range(5):
        image = 50 + 40 * np.sin(np.stack([x + k, y * (k + 1) / 3, x + y - k], -1))
        Image.fromarray(image.astype(np.uint8)).save(folder / f'{k}.png')
    return folder


@pytest.fixture(scope='module')
def store(photos, tmp_path_factory):
    """Parts are the quarters of the 16x16 grid, the foreground its central 8x8 patches."""
    y, x = np.mgrid[:16, :16]
    central = ((y // 4 % 3 > 0) & (x // 4 % 3 > 0)).reshape(1, -1)
    ids = (y // 8 * 2 + x // 8).reshape(1, -1)
    names = list_images(photos)
    writer = PartStoreWriter(tmp_path_factory.mktemp('store'), names,
                             dict(grid=16, num_parts=6))
    writer.write(0, ids.repeat(len(names), 0), (255 * central).repeat(len(names), 0))
    return writer.finish().root


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """{config: checkpoint} with random weights."""
    folder, made = tmp_path_factory.mktemp('weights'), {}
    torch.manual_seed(0)
    for config in (LEARNER, MAE, FOREGROUND):
        model = MODELS.build(Config.fromfile(config).model)
        if config == LEARNER:
            model.encoder.backbone.init_weights()
        else:
            model.backbone.init_weights()
            model.decoder.init_weights()
        made[config] = folder / f'{config.stem}.pth'
        torch.save(dict(state_dict=model.state_dict(), meta={}), made[config])
    return made


def cell(path, row, column):
    """The 64x64 array that a cell of a sheet shows."""
    size = cell_size(64, 64)
    x, y = cell_origin(row, column, size)
    with Image.open(path) as sheet:
        return np.array(sheet.convert('RGB'))[y:y + size[0], x:x + size[1]][::3, ::3]


def photo(folder, k):
    with Image.open(folder / f'{k}.png') as image:
        return np.array(image)


def patch_states(path, row, column, patch):
    """(h, w) strings: which patches of a cell are masked, dropped or visible."""
    pixels = cell(path, row, column)
    grid = 64 // patch
    blocks = pixels.reshape(grid, patch, grid, patch, 3).swapaxes(1, 2).reshape(grid, grid, -1)
    masked, dropped = ((blocks == grey).all(-1) for grey in (MASKED, DROPPED))
    return np.where(masked, 'masked', np.where(dropped, 'dropped', 'visible'))


def test_images_are_evenly_spaced_over_the_sorted_folder_and_unchanged(photos):
    batch, _ = pictures.take(Config.fromfile(MAE), photos, 3)
    assert batch['sample_idx'].tolist() == [0, 2, 4]
    assert (pictures.pixels_of(batch)[1] == photo(photos, 2)).all()
    assert len(pictures.take(Config.fromfile(MAE), photos, 99)[0]['inputs']) == 5


def test_true_patches_as_predictions_reproduce_the_image(photos, weights, tmp_path, monkeypatch):
    def truth(model, images, ids_keep, ids_mask):
        patches = patchify(images, 8)
        return normalize_patches(patches.gather(1, ids_mask[..., None].expand(-1, -1, 192)))

    monkeypatch.setattr(SemMAE, 'predict', truth)
    out = tmp_path / 'r.png'
    caption = pictures.draw_reconstructions(MAE, weights[MAE], photos, out, num=2)
    for row, k in enumerate((0, 4)):
        assert (cell(out, row, 0) == photo(photos, k)).all()
        assert np.abs(cell(out, row, 2).astype(int) - photo(photos, k)).max() <= 1
    assert 'mean and variance of the true one' in caption


def test_visible_patches_are_pasted_in_and_masked_ones_are_predicted(photos, weights, tmp_path):
    out = tmp_path / 'r.png'
    pictures.draw_reconstructions(MAE, weights[MAE], photos, out, num=1)
    states = patch_states(out, 0, 1, 8)
    assert (states == 'masked').sum() == 48 and (states == 'visible').sum() == 16
    visible = (states == 'visible').repeat(8, 0).repeat(8, 1)
    true, rebuilt = photo(photos, 0), cell(out, 0, 2)
    assert (rebuilt[visible] == true[visible]).all()
    assert np.abs(rebuilt[~visible].astype(int) - true[~visible]).mean() > 1  # random weights


def test_predictions_have_the_mean_and_variance_of_the_true_patches():
    true, predicted = 3 + 2 * torch.randn(2, 5, 192), torch.randn(2, 5, 192)
    shown = pictures.denormalize_patches(normalize_patches(predicted), true)
    torch.testing.assert_close(shown.mean(-1), true.mean(-1))
    torch.testing.assert_close(shown.var(-1), true.var(-1), rtol=1e-4, atol=1e-4)


def test_the_seed_decides_the_mask_and_nothing_else_does(photos, weights, tmp_path):
    files = [tmp_path / f'{k}.png' for k in range(3)]
    for file, seed in zip(files, (0, 0, 1)):
        pictures.draw_reconstructions(MAE, weights[MAE], photos, file, num=1, seed=seed)
    assert files[0].read_bytes() == files[1].read_bytes()
    # Not the files: the caption names the seed.
    assert (patch_states(files[0], 0, 1, 8) != patch_states(files[2], 0, 1, 8)).any()


def test_reconstructions_of_the_foreground_leave_the_background_out(photos, weights, store,
                                                                    tmp_path):
    out = tmp_path / 'r.png'
    caption = pictures.draw_reconstructions(FOREGROUND, weights[FOREGROUND], photos, out, num=1,
                                            part_store=store)
    states = patch_states(out, 0, 1, 4)
    central = np.zeros((16, 16), bool)
    central[4:12, 4:12] = True
    assert ((states == 'dropped') == ~central).all()
    assert (states == 'masked').sum() == 48 and (states == 'visible').sum() == 16
    assert (patch_states(out, 0, 2, 4)[~central] == 'dropped').all()
    assert 'only the 64 most foreground of 256' in caption


def test_masks_go_from_patches_of_every_part_to_whole_parts(photos, store, tmp_path):
    out = tmp_path / 'm.png'
    pictures.draw_masks(MaskSource(FOREGROUND, part_store=store), photos, out, (0., 1.), num=2)
    y, x = np.mgrid[:16, :16]
    part = y // 8 * 2 + x // 8  # 16 candidates in each of the four
    for row in range(2):
        states = [patch_states(out, row, column, 4) for column in (2, 3, 4)]
        counts = [[(s[part == p] == 'masked').sum() for p in range(4)] for s in states]
        assert [sum(c) for c in counts] == [48] * 3
        assert counts[1] == [12] * 4                # alpha 0: three quarters of every part
        assert sorted(counts[2]) == [0, 16, 16, 16]  # alpha 1: one part stays
        assert all((s == 'dropped').sum() == 192 for s in states)


def test_the_part_column_shows_the_parts_of_the_store(photos, store, tmp_path):
    out = tmp_path / 'm.png'
    pictures.draw_masks(MaskSource(FOREGROUND, part_store=store), photos, out, num=1)
    grey = photo(photos, 0) @ np.array([.299, .587, .114])
    expected = .88 * part_colours(4)[[3]] + .12 * grey[32:, 32:, None]
    assert np.abs(cell(out, 0, 1)[32:, 32:] - expected).max() <= .5


def test_masks_of_a_part_learner_follow_the_parts_it_finds(photos, weights, tmp_path):
    out = tmp_path / 'm.png'
    pictures.draw_masks(MaskSource(LEARNER, weights[LEARNER]), photos, out, alphas=(0.,), num=1)
    model, cfg = LearnerSource(LEARNER, weights[LEARNER]).load()
    with torch.no_grad():
        ids = pictures.infer(model, pictures.take(cfg, photos, 1)[0])[0].reshape(12, 12).numpy()
    centres = ((np.arange(12) + .5) * 64 / 12).astype(int)  # 12 patches do not divide 64 pixels
    masked = (cell(out, 0, 3)[centres][:, centres] == MASKED).all(-1)
    assert masked.sum() == 108
    for part in np.unique(ids):
        assert abs(masked[ids == part].sum() - .75 * (ids == part).sum()) < 1


def test_every_strategy_masks_the_same_share_of_one_image(photos, weights, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(pictures.figures, 'mask_sheet',
                        lambda images, masks, *_, **maps: seen.update(masks, images=images))
    pictures.draw_strategies(LearnerSource(LEARNER, weights[LEARNER], 8), photos, None)
    assert seen.pop('images').shape[0] == 1
    assert len(seen) == 9 and all(mask.sum() == 48 for mask in seen.values())
    assert len({mask.tobytes() for mask in seen.values()}) == 9
    monkeypatch.undo()
    pictures.draw_strategies(LearnerSource(LEARNER, weights[LEARNER]), photos, tmp_path / 'x.png')
    assert Image.open(tmp_path / 'x.png').width > 9 * 64


def test_parts_are_those_of_the_learner_and_heads_those_of_its_encoder(
        photos, weights, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(pictures.figures, 'part_sheet', lambda images, label_maps, path, **more:
                        drawn.update(label_maps, **more['heat_maps']))
    learner = LearnerSource(LEARNER, weights[LEARNER], 8)
    pictures.draw_parts(learner, photos, tmp_path / 'p.png', num=2)
    model, cfg = learner.load()
    batch, _ = pictures.take(cfg, photos, 2)
    with torch.no_grad():
        inputs = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
        maps = model(inputs)
        heads = model.encoder(inputs, return_heads=True)[2]
    assert (drawn['learned parts'] == maps.argmax(1).reshape(2, 8, 8).numpy()).all()
    assert (drawn['encoder heads'] == heads.argmax(1).reshape(2, 8, 8).numpy()).all()
    assert drawn['foreground score'].shape == (2, 8, 8)


def test_attention_is_that_of_the_pretrained_encoder(photos, weights, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(pictures.figures, 'heat_sheet',
                        lambda images, heat_maps, *_: drawn.update(heat_maps))
    pictures.draw_attention(MAE, weights[MAE], photos, tmp_path / 'a.png', num=2)
    model, cfg = pictures.load_pretraining(MAE, weights[MAE])
    batch, _ = pictures.take(cfg, photos, 2)
    with torch.no_grad():
        x = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
        x, _ = model.backbone.tokens(x)
        for layer in model.backbone.layers[:-1]:
            x = layer(x)
        last = model.backbone.layers[-1]
        q, k, _ = last.attn.qkv(last.ln1(x)).view(2, 65, 3, 3, 32).unbind(2)
        logits = torch.einsum('bhd,bnhd->bhn', q[:, 0], k) / 32 ** .5
    expected = logits.softmax(-1)[:, :, 1:].reshape(2, 3, 8, 8).numpy()
    assert list(drawn) == ['head 0', 'head 1', 'head 2']
    for k, heat in enumerate(drawn.values()):
        np.testing.assert_allclose(heat, expected[:, k], rtol=1e-4)


def test_what_does_not_fit_is_refused_with_what_to_do(photos, weights, store, tmp_path):
    out = tmp_path / 'x.png'
    with pytest.raises(ValueError, match='semmae.PartLearner, expected a pre-training'):
        pictures.draw_reconstructions(LEARNER, weights[LEARNER], photos, out)
    with pytest.raises(ValueError, match='SemMAE, expected a part learner'):
        pictures.draw_parts(LearnerSource(MAE, weights[MAE]), photos, out)
    with pytest.raises(ValueError, match='is not a checkpoint of this config'):
        pictures.draw_masks(MaskSource(FOREGROUND, weights[MAE], store), photos, out)
    with pytest.raises(ValueError, match='tools/extract_parts.py .* --store'):
        pictures.draw_masks(MaskSource(MAE), photos, out)
    with pytest.raises(ValueError, match='grid 16, expected 8'):
        pictures.draw_masks(MaskSource(MAE, part_store=store), photos, out)
    with pytest.raises(ValueError, match='expected its checkpoint and no part store'):
        pictures.draw_masks(MaskSource(LEARNER), photos, out)
    with pytest.raises(ValueError, match='num is 0'):
        pictures.draw_attention(MAE, weights[MAE], photos, out, num=0)
    (tmp_path / 'others').mkdir()
    Image.new('RGB', (64, 64)).save(tmp_path / 'others' / 'a.png')
    with pytest.raises(ValueError, match='does not fit: images'):
        pictures.draw_masks(MaskSource(FOREGROUND, part_store=store), tmp_path / 'others', out)
    assert not out.exists()


@pytest.fixture(scope='module')
def segmented(toy, tmp_path_factory):
    """{title: work directory}: stored are the true labels as class 1 everywhere, and all 7."""
    folder, made = tmp_path_factory.mktemp('seed0'), {}
    root = toy / 'ADEChallengeData2016'
    for recipe, label in (('mae_p16', 1), ('semmae_p16', 7)):
        work = folder / 'ade20k' / recipe
        (work / 'predictions' / 'abc').mkdir(parents=True)
        cfg = Config.fromfile(MINI / 'semmae_upernet_ade20k_mini.py')
        cfg.test_dataloader.dataset.data_root = str(root)
        cfg.dump(work / 'config.py')
        for image in (root / 'images' / 'validation').glob('*.jpg'):
            Image.fromarray(np.full((64, 64), label, np.uint8)).save(
                work / 'predictions' / 'abc' / f'{image.stem}.png')
        append_result(work / 'results.jsonl', dict(
            row=f'ade20k/{recipe}', method=recipe, recipe=recipe, task='ade20k', dataset='toy',
            split='val', metric='mIoU', value=20., unit='%', seed=0, protocol=dict(iters=1),
            config='c.py', checkpoint='c.pth', checkpoint_sha256='a', reduced=True,
            tables=[7], predictions='predictions/abc.npz'))
        made[recipe] = work
    return made


def test_a_class_has_one_colour_in_true_and_predicted_maps(toy, segmented, tmp_path):
    out = tmp_path / 's.png'
    caption = pictures.draw_segmentations(segmented, out, num=2)
    colours, root = part_colours(8), toy / 'ADEChallengeData2016'
    assert '7 saddle' in caption and 'Pale pixels count as no class' in caption
    for row, path in enumerate(sorted((root / 'images' / 'validation').iterdir())):
        image = np.array(Image.open(path))
        true = np.array(Image.open(root / 'annotations' / 'validation' / f'{path.stem}.png'))
        grey = image @ np.array([.299, .587, .114])
        assert (cell(out, row, 0) == image).all()
        assert (cell(out, row, 1)[true == 0] == DROPPED).all()  # 0 counts as no class
        for column, labels in ((1, true.astype(int) - 1), (2, np.full((64, 64), 1)),
                               (3, np.full((64, 64), 7))):
            expected = .88 * colours[labels] + .12 * grey[..., None]
            error = np.abs(cell(out, row, column) - expected)
            assert error[(true > 0) | (column > 1)].max() <= .5


def test_a_config_without_a_test_is_drawn_on_its_validation_images(segmented, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(segmented['mae_p16'], work)
    before = pictures.draw_segmentations({'MAE': work}, tmp_path / 'a.png', num=2)
    cfg = Config.fromfile(work / 'config.py')
    cfg.val_dataloader, cfg.test_dataloader = cfg.test_dataloader, None
    cfg.dump(work / 'config.py')
    assert pictures.draw_segmentations({'MAE': work}, tmp_path / 'b.png', num=2) == before
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_the_label_maps_of_the_last_result_are_drawn(segmented, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(segmented['mae_p16'], work)
    shutil.copytree(work / 'predictions' / 'abc', work / 'predictions' / 'def')
    record = dict(json.loads((work / 'results.jsonl').read_text()), time='2099-01-01T00:00:00Z',
                  checkpoint_sha256='b', predictions='predictions/def.npz')
    append_result(work / 'results.jsonl', record)
    assert pictures.predictions_of(work) == work / 'predictions' / 'def'


def test_absent_predictions_and_images_are_missing_files(segmented, tmp_path):
    work, out = tmp_path / 'work', tmp_path / 'x.png'
    with pytest.raises(FileNotFoundError, match='no stored label maps in .*work'):
        pictures.draw_segmentations({'MAE': work}, out)
    shutil.copytree(segmented['mae_p16'], work)
    shutil.rmtree(work / 'predictions')
    with pytest.raises(FileNotFoundError, match='no stored label maps in .*work'):
        pictures.draw_segmentations({'MAE': work}, out)
    shutil.copytree(segmented['mae_p16'] / 'predictions', work / 'predictions')
    cfg = Config.fromfile(work / 'config.py')
    cfg.test_dataloader.dataset.data_root = 'data/none'
    cfg.dump(work / 'config.py')
    with pytest.raises(FileNotFoundError, match='no images at data/none/images/validation'):
        pictures.draw_segmentations({'MAE': work}, out)
    assert not out.exists()


def test_a_report_of_one_seed_names_what_it_leaves_out(segmented, photos, tmp_path):
    folder = segmented['mae_p16'].parents[1]
    html = unescape(write_folder_report(folder, photos, tmp_path / 'report.html').read_text())
    assert html.count('<figure') == 1 and 'Validation images, each with its true label map' in html
    assert '<p>1 seed' in html and '<h1>Results on toy</h1>' in html
    left_out = html[html.index('Left out: '):html.index('<nav')]
    assert 'Semantic parts (no epoch_N.pth in ' in left_out and 'store_8)' in left_out
    assert 'Curves (no loss logged below ' in left_out and 'Segmentations' not in left_out


def test_a_report_of_a_suite_is_of_all_seeds_with_pictures_of_the_first_that_has_them(
        segmented, photos, tmp_path):
    for seed, copied in ((2, True), (10, False)):
        for recipe, work in segmented.items():
            to = tmp_path / f'seed{seed}' / 'ade20k' / recipe
            if copied:
                shutil.copytree(work, to, ignore=shutil.ignore_patterns('results.jsonl'))
            for other in (seed, seed + 100):
                append_result(to / 'results.jsonl', dict(
                    json.loads((work / 'results.jsonl').read_text()), seed=other,
                    checkpoint_sha256=str(other)))
    (tmp_path / 'seed0').mkdir()
    html = unescape(write_folder_report(
        tmp_path, photos, tmp_path / 'r' / 'report.html').read_text())
    assert '4 seeds: 2, 10, 102, 110' in html and '<p>4 seeds' in html
    assert html.count('<figure') == 1 and 'in all columns. Of seed2.' in html
    assert '20.00, 20.00, 20.00, 20.00 % on toy (val)' in html


def test_a_folder_of_results_only_has_tables_and_protocols(tmp_path):
    results = REPO / 'benchmarks' / 'results' / 'mini'
    html = write_folder_report(results, 'data/none', tmp_path / 'report.html').read_text()
    assert '<figure' not in html and 'No pictures and no curves: ' in html
    assert html.count('<details') >= 13 and 'How good the parts are' in html
    links = re.findall(r'href="#(p-[0-9a-f]{12})"', html)
    assert len(links) >= 7 and all(f'<details id="{link}">' in html for link in links)


@pytest.mark.slow
def test_the_tool_writes_a_png_and_says_where(photos, weights, store, tmp_path):
    common = ['--images', photos, '--num', 1]
    for name, *words in (
            ('alpha',), ('masks', FOREGROUND, weights[FOREGROUND], '--store', store, *common),
            ('parts', LEARNER, weights[LEARNER], '--grid', 8, *common),
            ('strategies', LEARNER, weights[LEARNER], '--grid', 8, *common),
            ('reconstruction', MAE, weights[MAE], *common),
            ('attention', LEARNER, weights[LEARNER], *common)):
        path = tmp_path / f'{name}.png'
        done = tool('visualize', name, *words, '--out', path)
        assert done.returncode == 0 and f'-> {path}' in done.stdout, done.stderr
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == 'PNG'


def test_a_mistake_ends_the_tool_in_one_line(photos, tmp_path):
    done = tool('visualize', 'attention', MAE, tmp_path / 'none.pth', '--images', photos,
                '--out', tmp_path / 'x.png')
    assert done.returncode == 2
    assert done.stderr.startswith('FileNotFoundError: no checkpoint at')
