"""From a part learner and images to a part store that pre-training accepts."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from semmae.datasets.part_store import list_images
from semmae.engine.extract import extract_parts, infer, load_learner, to_bytes
from semmae.registry import DATASETS, MODELS

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / 'mm_configs/mini/semmae_parts_mini.py'


@pytest.fixture(scope='module')
def learner(tmp_path_factory):
    """A part learner with random weights, saved."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    model.encoder.backbone.init_weights()
    path = tmp_path_factory.mktemp('learner') / 'epoch_3.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def test_a_store_holds_what_the_learner_sees_in_each_image(learner, toy, tmp_path):
    images = toy / 'imagenet/train'
    store = extract_parts(CONFIG, learner, images, tmp_path / 'store', grid=8, batch_size=5)
    assert store.images() == list_images(images) and store.grid == 8 and store.num_parts == 6
    model, _ = load_learner(CONFIG, learner, 8)
    data = DATASETS.build(dict(
        type='semmae.PartDataset', data_root=str(images), part_store=str(tmp_path / 'store'),
        grid=8, num_parts=6, pipeline=Config.fromfile(
            REPO / 'mm_configs/mini/semmae_p16_mini.py').train_dataloader.dataset.dataset.pipeline))
    np.random.seed(0)  # its first number is .55: no flip
    sample = data[7]
    ids, foreground = infer(model, dict(inputs=sample['inputs'][None]))
    assert ids[0].equal(sample['part_ids'].long())
    assert to_bytes(foreground)[0].equal(sample['foreground'])


def test_an_interrupted_extraction_ends_in_the_same_store(learner, toy, tmp_path, monkeypatch):
    images = toy / 'imagenet/train'
    whole = extract_parts(CONFIG, learner, images, tmp_path / 'a', grid=8, shard_size=4)
    from semmae.engine import extract
    calls, original = [], extract.infer

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(extract, 'infer', stop)
    with pytest.raises(KeyboardInterrupt):
        extract_parts(CONFIG, learner, images, tmp_path / 'b', grid=8, shard_size=4)
    monkeypatch.undo()
    again = extract_parts(CONFIG, learner, images, tmp_path / 'b', grid=8, shard_size=4)
    for a, b in zip(whole.arrays(), again.arrays()):
        assert (a == b).all()
    assert whole.manifest == again.manifest


def test_heads_as_parts_have_one_part_a_head(learner, toy, tmp_path):
    store = extract_parts(CONFIG, learner, toy / 'imagenet/val', tmp_path / 'heads', grid=8,
                          source='heads')
    assert store.num_parts == 3 and store.manifest['source'] == 'heads'
    assert max(store[i][0].max() for i in range(len(store))) <= 2


def test_foreground_ranks_have_no_ties_up_to_256_patches_and_keep_the_order():
    scores = torch.rand(3, 256) ** 9  # a long tail
    ranks = to_bytes(scores)
    assert all(len(row.unique()) == 256 for row in ranks)
    assert ranks.long().argsort(-1).equal(scores.argsort(-1))


def test_a_config_that_learns_no_parts_is_refused(learner, toy, tmp_path):
    with pytest.raises(ValueError, match='expected a part learner'):
        extract_parts(REPO / 'mm_configs/mini/mae_p16_mini.py', learner, toy / 'imagenet/train',
                      tmp_path / 'x')
