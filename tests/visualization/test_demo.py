"""The first pictures of a few images (semmae demo), and what they say of their parts."""
import numpy as np
import pytest
import torch
from PIL import Image

from semmae.commands import main
from semmae.config.options import read_config
from semmae.registry import MODELS
from semmae.training.run import train
from semmae.visualization import demo

from ..tiny import REPO


@pytest.fixture
def images(tmp_path):
    """A folder of two images below folders, one of them gray."""
    rng = np.random.default_rng(0)
    for name, shape in {'a/one.png': (70, 90, 3), 'b/c/two.jpg': (120, 80)}.items():
        path = tmp_path / 'photographs' / name
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / 'photographs'


def test_the_photographs_of_two_dependencies_are_there():
    assert [path.name for path in demo.shipped_photographs()] == [
        'china.jpg', 'flower.jpg', 'grace_hopper.jpg']


def test_small_copies_are_of_evenly_spaced_images_and_replace_older_ones(images, tmp_path):
    for _ in range(2):
        large, small = demo.small_copies(images, tmp_path / 'few', (256, 64))
        assert [path.name for path in sorted(small.iterdir())] == ['0_one.jpg', '1_two.jpg']
        assert [Image.open(path).size for path in sorted(small.iterdir())] == [(82, 64), (64, 96)]
    assert min(Image.open(large / '0_one.jpg').size) == 256
    (images / 'a/one.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'a/one.png cannot be decoded'):
        demo.small_copies(images, tmp_path / 'few', (64,))


def test_parts_without_an_encoder_are_clusters_of_colours_and_say_so(images):
    batch, ids, num_parts, ratio, _, name = demo.Clusters().load(images, 2)
    assert ids.shape == (2, 14 * 14) and num_parts == 6 and ratio == .75
    assert batch['inputs'].shape == (2, 3, 224, 224)
    assert 'colours' in name and 'no encoder was given' in name


@pytest.mark.slow
def test_parts_with_an_encoder_are_clusters_of_its_tokens(images, tmp_path):
    torch.manual_seed(0)
    cfg = read_config(REPO / 'mm_configs/ablations/parts_dinov2.py')
    vit = MODELS.build(cfg.model).encoder.network
    torch.save(vit.state_dict(), tmp_path / 'own_vit.pth')
    _, ids, num_parts, _, _, name = demo.Clusters(tmp_path / 'own_vit.pth').load(images, 2)
    assert ids.shape == (2, 16 * 16) and num_parts == 7 and 1 < len(ids.unique()) <= 7
    assert 'tokens of own_vit.pth; part 0 is background' in name


def test_demo_names_each_picture_when_it_is_there_and_keeps_a_trained_mae(
        images, tmp_path, monkeypatch, capsys):
    def short(config, options, **how):
        seen.append(how['resume'])
        return train(config, options=options | {
            'train_dataloader.dataset.min_length': 0, 'train_dataloader.batch_size': 2}, **how)

    seen = []
    monkeypatch.setattr(demo, 'train', short)
    monkeypatch.setattr(demo.draw_demo, '__defaults__', (None, None, 2))
    out = tmp_path / 'out'
    for _ in range(2):
        main(['demo', '--images', str(images), '--out', str(out)])
    lines = capsys.readouterr().out.splitlines()
    pictures = {'parts and masks': out / 'parts_and_masks.png',
                'reconstructions': out / 'reconstructions.png'}
    told = [f'{what} -> {path}' for what, path in pictures.items()]
    assert [line for line in lines if '->' in line] == [*told, *told]
    assert lines[:2] == [told[0], 'training a small MAE on these images']
    assert all(Image.open(path).width > 400 for path in pictures.values())
    assert seen == [False], 'the second call trains nothing'


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(demo, 'draw_demo', interrupted)
    with pytest.raises(SystemExit) as end:
        main(['demo', '--out', str(tmp_path)])
    assert end.value.code == 130
    assert capsys.readouterr().err == 'Stopped. The same command continues.\n'
