"""Small data in the real layouts, made once."""
import gc
from pathlib import Path

import mat4py
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import runner as mmengine_runner
from yapf.yapflib import yapf_api

from semmae.datasets.part_store import PartStoreWriter, list_images
from semmae.datasets.toy import write_toy
from semmae.mmengine_patches import install
from semmae.registry import MODELS

from .skips import Skips
from .tiny import config, trained

REPO = Path(__file__).resolve().parents[1]

# torch starts the threads of autograd with the first backward pass. Started here, before any other
# device is known, there are none, and a forked test may compute gradients.
torch.zeros(1, requires_grad=True).sum().backward()

install()

# mmengine lays out each config three times and describes the machine before it trains, which takes
# longer than the trainings of these tests.
yapf_api.FormatCode = lambda text, **_: (text, True)
mmengine_runner.collect_env = dict
# mmengine collects garbage for each data set, which visits the objects of all imports.
gc.collect()
gc.freeze()


def pytest_configure(config):
    if not hasattr(config, 'workerinput'):  # the process that reports
        config.pluginmanager.register(Skips())


def pytest_collection_modifyitems(items):
    shared = REPO.parent / 'shared' / 'data'
    if not shared.is_dir():
        skip = pytest.mark.skip(reason='the real samples are not on this machine')
        for item in items:
            if 'shared_data' in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope='session')
def toy(tmp_path_factory):
    """The toy set at its smallest, with random part stores at grids 8 and 16."""
    root = tmp_path_factory.mktemp('data') / 'toy'
    write_toy(root, num_imagenet=(16, 8), num_cub=(16, 16), num_ade=(4, 2), progress=False)
    for split in ('train', 'val'):
        for grid in (8, 16):
            random_store(root / 'imagenet' / split, root / 'parts' / f'{split}_{grid}', grid)
    return root


def random_store(images, out, grid, num_parts=6, seed=0):
    """A part store of random parts for the images below a folder."""
    names, rng = list_images(images), np.random.default_rng(seed)
    writer = PartStoreWriter(out, names, dict(grid=grid, num_parts=num_parts))
    shape = len(names), grid ** 2
    writer.write(0, rng.integers(num_parts, size=shape), rng.integers(256, size=shape))
    return writer.finish()


@pytest.fixture(scope='session')
def cars(toy):
    """Stanford Cars' layout (the single annotation file) over toy images."""
    root = toy.parent / 'stanford_cars'
    names = list_images(toy / 'imagenet' / 'train')
    root.mkdir()
    (root / 'car_ims').symlink_to(toy / 'imagenet' / 'train')
    mat4py.savemat(str(root / 'cars_annos.mat'), {'annotations': {
        'relative_im_path': [f'car_ims/{n}' for n in names],
        'class': [1 + i % 196 for i in range(len(names))],
        'test': [int(i >= 8) for i in range(len(names))]}})
    return root


@pytest.fixture(scope='session')
def inat(toy):
    """iNaturalist 2019's layout over toy images."""
    import json
    root = toy.parent / 'inat2019'
    images = root / 'train_val2019' / 'Plants'
    names = list_images(toy / 'imagenet' / 'train')[:8]
    for split in ('train', 'val'):
        records = dict(images=[], annotations=[],
                       categories=[dict(id=c, name=str(c)) for c in range(1010)])
        for i, name in enumerate(names):
            target = images / str(i) / f'{split}{i}.jpg'
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((toy / 'imagenet' / 'train' / name).read_bytes())
            records['images'].append(dict(
                id=i, file_name=f'train_val2019/Plants/{i}/{split}{i}.jpg'))
            records['annotations'].append(dict(id=i, image_id=i, category_id=i))
        (root / f'{split}2019.json').write_text(json.dumps(records))
    return root


@pytest.fixture(scope='session')
def learner(tmp_path_factory):
    """Checkpoint of a mini part learner with random weights, and what its training said of it."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(REPO / 'mm_configs/mini/semmae_parts_mini.py').model)
    model.encoder.backbone.init_weights()
    path = tmp_path_factory.mktemp('learner') / 'epoch_3.pth'
    meta = dict(semmae=dict(
        id='parts', method='part learning', reduced_why='3 of 9 epochs', seed=5))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    """The work directory of a tiny training of three epochs of six iterations, uninterrupted."""
    folder = tmp_path_factory.mktemp('whole')
    code, said = trained(folder, config(folder))
    assert code == 0, said
    return folder / 'work'
