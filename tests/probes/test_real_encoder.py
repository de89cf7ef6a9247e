"""A published encoder of 22 million parameters and real photographs give a sensible result."""
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from semmae.registry import MODELS
from semmae.training.run import train

from ..tiny import REPO, fork, wait

pytestmark = [pytest.mark.shared_data, pytest.mark.slow]
NAME, CLASSES = 'vit_small_patch14_dinov2', 5
SHARED = REPO.parent / 'shared/data'
FILE = SHARED / 'weights/dinov2_vits14_saliency.safetensors'


def test_the_features_of_a_published_file_are_timms():
    model = MODELS.build(dict(
        type='semmae.TimmViT', model_name=NAME, out_type='raw', is_frozen=True,
        init_cfg=dict(type='Pretrained', checkpoint=str(FILE))))
    model.init_weights()
    assert model.load_report['matched'] == 174 and not model.load_report['new']
    theirs = timm.create_model(NAME, num_classes=0, dynamic_img_size=True).eval()
    theirs.load_state_dict({k: v.float() for k, v in load_file(FILE).items()})
    images = torch.randn(1, 3, 126, 98, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images)[0], theirs.forward_features(images),
                                   atol=1e-5, rtol=1e-5)


def test_nearest_neighbours_tell_real_birds_apart(tmp_path):
    def run():
        train(str(REPO / 'mm_configs/dense/dense_cub25.py'), work_dir=tmp_path / 'work', options={
            'model.backbone.init_cfg.checkpoint': str(FILE), 'model.patch_layers': [],
            'model.backbone.out_indices': [-1], 'model.layers': [-1],
            'train_cfg.store': str(tmp_path / 'features'), 'train_cfg.only': ['knn'],
            'train_dataloader.dataset.data_root': str(SHARED / 'CUB_200_2011'),
            'val_dataloader.dataset.data_root': str(SHARED / 'CUB_200_2011'),
            'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0,
            '+train_dataloader.dataset.indices': 30 * CLASSES,
            '+val_dataloader.dataset.indices': 60})
    assert wait(fork(run, tmp_path / 'said.txt')) == 0, (tmp_path / 'said.txt').read_text()[-1500:]
    record, = map(json.loads, (tmp_path / 'work/results.jsonl').read_text().splitlines())
    assert record['task'] == 'knn' and record['chosen']['tried'] == 3
    assert record['value'] > 100 / CLASSES * 2.5
