"""Part stores of label maps: true parts, patch by patch."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from semmae.datasets.part_dataset import PartDataset
from semmae.parts.extract import extract_parts
from semmae.parts.true_parts import LabelSource, parts_of_labels
from tests.conftest import REPO

CONFIG = REPO / 'mm_configs/mini/semmae_parts_mini.py'


def test_a_patch_has_the_part_that_covers_most_of_it():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, :2, :2] = 3
    labels[0, 0, 2], labels[0, 1, 2:] = 1, 2      # one pixel of part 1, two of part 2, one of none
    labels[0, 2:, :2] = torch.tensor([[0, 1], [1, 0]])   # a tie: the lower number
    ids, foreground = parts_of_labels(labels, 2, 6)
    assert ids.tolist() == [[3, 2, 0, 0]]
    assert foreground[0].tolist() == pytest.approx([1., .75, .5, 0.], abs=2e-3)


def test_of_patches_that_are_all_object_the_one_inside_comes_first():
    labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
    labels[0, 1:4, 1:4] = 1
    _, foreground = parts_of_labels(labels, 5, 2)
    assert foreground[0].argmax() == 12


def test_a_label_beyond_the_parts_is_refused():
    with pytest.raises(ValueError, match='label 6 .* expected 0 to 5'):
        parts_of_labels(torch.full((1, 4, 4), 6), 2, 6)


def test_a_store_of_true_parts_serves_pre_training(toy, tmp_path):
    images, labels = (toy / 'imagenet' / name for name in ('train', 'part_labels/train'))
    source = LabelSource(CONFIG, labels, grid=8)
    store = extract_parts(source, images, tmp_path / 'store', num_workers=0)
    name = store.images()[3]
    truth = np.array(Image.open((labels / name).with_suffix('.png')))
    # Patches of one label only: no majority is needed to know them.
    blocks = truth.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, -1)
    pure = (blocks == blocks[:, :1]).all(1)
    ids, foreground = store[3]
    assert pure.sum() > 10 and (ids[pure] == blocks[pure, 0]).all()
    is_object = (blocks > 0).mean(1)
    assert foreground[is_object == 0].max() < foreground[is_object > .5].min()
    pipeline = Config.fromfile(REPO / 'mm_configs/mini/table3_mini.py').train_dataloader.dataset \
        .dataset.pipeline
    assert len(PartDataset(images, pipeline, part_store=store.root, grid=8, num_parts=6)) == 16
    assert extract_parts(source, images, tmp_path / 'store').manifest == store.manifest
    with pytest.raises(ValueError, match='that differs: grid 8, expected 16'):
        extract_parts(replace(source, grid=16), images, tmp_path / 'store')


def test_images_without_a_label_map_are_counted(toy, tmp_path):
    with pytest.raises(FileNotFoundError, match='16 of 16 images have no label map'):
        extract_parts(LabelSource(CONFIG, tmp_path), toy / 'imagenet/train', tmp_path / 'store')
