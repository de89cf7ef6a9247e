"""semmae embed and semmae predict: features and classes of a folder of images."""
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from semmae.commands import main
from semmae.config.options import read_config
from semmae.datasets.part_store import list_images
from semmae.registry import MODELS

from ..tiny import REPO

NAME = 'vit_tiny_patch16_224'
MINI = REPO / 'mm_configs/mini'


def rows(path):
    return list(csv.reader(Path(path).read_text().splitlines()))


def failed(capsys, *words):
    """The line that a refused command prints."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[0]


# ------------------------------------------------------------------ embed
@pytest.fixture(scope='module')
def vit(tmp_path_factory):
    """(timm's network, its file)."""
    torch.manual_seed(0)
    model, path = timm.create_model(NAME).eval(), tmp_path_factory.mktemp('vit') / 'vit.safetensors'
    save_file(model.state_dict(), path)
    return model, path


def test_features_are_those_of_the_network_on_its_own_normalisation(vit, toy, tmp_path, capsys):
    model, weights = vit
    images, out = toy / 'imagenet/val', tmp_path / 'new/f.npz'
    main(['embed', str(images), '--timm', NAME, '--checkpoint', str(weights), '--out', str(out),
          '--kind', 'class', 'mean', 'patches', '--batch-size', '3', '--num-workers', '0'])
    names = list_images(images)
    assert rows(out.with_suffix('.csv')) == [
        ['index', 'name'], *([str(i), name] for i, name in enumerate(names))]
    with np.load(out) as arrays:
        found = dict(arrays)
    assert {kind: a.shape for kind, a in found.items()} == {
        'class': (len(names), 192), 'mean': (len(names), 192), 'patches': (len(names), 196, 192)}
    photo = Image.open(images / names[-1]).convert('RGB').resize((256, 256), Image.BICUBIC)
    pixels = torch.tensor(np.asarray(photo)[16:240, 16:240].transpose(2, 0, 1) / 255.)
    with torch.no_grad():
        tokens = model.forward_features(((pixels - .5) / .5).float()[None])[0]
    torch.testing.assert_close(torch.tensor(found['class'][-1]), tokens[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.tensor(found['mean'][-1]), tokens[1:].mean(0), atol=1e-4,
                               rtol=1e-3)
    about = json.loads(out.with_suffix('.json').read_text())
    assert about['grid'] == [14, 14] and about['count'] == len(names)
    assert about['backbone']['model_name'] == NAME


def test_an_npy_file_has_the_first_kind(vit, toy, tmp_path):
    out = tmp_path / 'f.npy'
    main(['embed', str(toy / 'imagenet/val'), '--timm', NAME, '--checkpoint', str(vit[1]), '--out',
          str(out), '--kind', 'mean', '--num-workers', '0'])
    assert np.load(out).shape == (8, 192)


def test_weights_that_do_not_fit_and_random_ones_are_refused(vit, toy, tmp_path, capsys):
    images, out = toy / 'imagenet/val', tmp_path / 'f.npz'
    wrong = tmp_path / 'wrong.safetensors'
    save_file({k: v for k, v in vit[0].state_dict().items() if 'blocks.3' not in k}, wrong)
    assert 'blocks.3' in failed(capsys, 'embed', images, '--timm', NAME, '--checkpoint', wrong,
                                '--out', out)
    assert 'random weights' in failed(
        capsys, 'embed', images, '--config', 'mm_configs/dense/dense_imagenet.py', '--out', out,
        '--cfg-options', 'model.backbone.init_cfg=None', f'model.backbone.model_name={NAME}')
    assert 'expected a semmae.FrozenProbe' in failed(
        capsys, 'embed', images, '--config', MINI / 'linprobe_p16_mini.py', '--out', out)
    assert 'expected one of --timm NAME' in failed(capsys, 'embed', images, '--out', out)
    assert not out.exists()


def test_an_image_that_cannot_be_read_is_named(vit, tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/bad.jpg').write_text('no image')
    assert 'bad.jpg cannot be read' in failed(
        capsys, 'embed', tmp_path / 'images', '--timm', NAME, '--checkpoint', vit[1], '--out',
        tmp_path / 'f.npz')


# ------------------------------------------------------------------ predict
def saved(config, path, **meta):
    """(model of a config with random weights, its checkpoint)."""
    torch.manual_seed(0)
    model = MODELS.build(read_config(config).model).eval()
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return model


def test_a_classifier_names_the_best_class_of_each_image(toy, tmp_path):
    config, images = MINI / 'linprobe_p16_mini.py', toy / 'imagenet/val'
    classes = tuple(f'class {i}' for i in range(8))
    model = saved(config, tmp_path / 'c.pth', dataset_meta=dict(classes=classes))
    main(['predict', str(config), str(tmp_path / 'c.pth'), '--images', str(images), '--out',
          str(tmp_path / 'out.csv')])
    header, *found = rows(tmp_path / 'out.csv')
    assert header == ['name', 'class', 'score'] and [row[0] for row in found] == list_images(images)
    photo = cv2.imread(str(images / found[0][0]))
    pixels = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))
    with torch.no_grad():
        inputs = model.data_preprocessor(dict(inputs=[pixels]), False)['inputs']
        scores = model(inputs).softmax(-1)[0]
    assert found[0][1] == classes[int(scores.argmax())]
    assert float(found[0][2]) == pytest.approx(float(scores.max()), abs=1e-5)


def test_a_segmenter_writes_a_map_of_the_size_of_each_photo(toy, tmp_path):
    config, images = MINI / 'semmae_upernet_ade20k_mini.py', tmp_path / 'images'
    (images / 'a').mkdir(parents=True)
    cv2.imwrite(str(images / 'a/b.png'), np.zeros((70, 90, 3), np.uint8))
    saved(config, tmp_path / 'c.pth')
    main(['predict', str(config), str(tmp_path / 'c.pth'), '--images', str(images), '--out',
          str(tmp_path / 'maps')])
    found = np.asarray(Image.open(tmp_path / 'maps/a/b.png'))
    assert found.shape == (70, 90) and found.dtype == np.uint8 and found.max() < 150


def test_a_config_without_classes_is_refused(toy, tmp_path, capsys):
    assert 'predicts no classes' in failed(
        capsys, 'predict', MINI / 'mae_p16_mini.py', REPO / 'setup.cfg', '--images',
        toy / 'imagenet/val', '--out', tmp_path / 'x.csv')


def test_the_place_of_the_predictions_is_checked_before_the_checkpoint_is_read(
        toy, tmp_path, capsys):
    assert 'expected a name that ends in .csv' in failed(
        capsys, 'predict', MINI / 'linprobe_p16_mini.py', REPO / 'setup.cfg', '--images',
        toy / 'imagenet/val', '--out', tmp_path / 'x.txt')


def test_a_cache_of_images_without_pixels_is_refused(toy, tmp_path, capsys):
    assert 'size=0, expected at least 1 pixel' in failed(
        capsys, 'data', 'pack', toy / 'imagenet/val', '--out', tmp_path / 'x', '--size', '0')
