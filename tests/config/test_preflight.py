"""What is tried and counted before the first step changes nothing of the training."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop
from mmseg.models import SegDataPreProcessor
from torch.utils.data import DataLoader

from semmae.config.preflight import require_consistent, require_shapes
from semmae.training.global_batch import scale

from ..tiny import TinyData, TinyModel, fork, wait


class Doubled(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def test_a_model_is_compiled_for_its_batches_and_not_for_the_first_sample(tmp_path):
    """In a child: after torch.compile a process cannot start others that train."""
    def compiled():
        sizes = []

        def backend(graph, inputs):
            sizes.extend(
                tuple(node.meta['example_value'].shape) for node in graph.graph.nodes
                if node.op == 'placeholder' and torch.is_tensor(node.meta['example_value']))
            return graph.forward
        model = TinyModel()
        model.first = Doubled()
        model.first.compile(backend=backend)
        runner = SimpleNamespace(
            model=model, train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
            train_dataloader=DataLoader(TinyData(8), batch_size=6))
        require_consistent(runner)
        print(runner.is_consistent, sizes)
        model(torch.rand(6, 4), mode='loss')
        print(sizes)  # of any size it would be (s0, 4)
    code = wait(fork(compiled, tmp_path / 'said.txt'))
    said = (tmp_path / 'said.txt').read_text()
    assert code == 0 and said == 'True []\n[(6, 4)]\n', said


def test_a_photo_smaller_than_its_crop_is_as_large_as_the_model_will_see_it():
    backbone = SimpleNamespace(img_size=64, patch_size=8)
    filled = SimpleNamespace(backbone=backbone,
                             data_preprocessor=SegDataPreProcessor(size=(64, 64)))
    require_shapes(filled, dict(inputs=torch.zeros(3, 39, 64)))
    for model, side in ((filled, 80), (SimpleNamespace(backbone=backbone), 39)):
        with pytest.raises(ValueError, match=rf'images of \({side}, 64\) pixels'):
            require_shapes(model, dict(inputs=torch.zeros(3, side, 64)))


def test_counts_are_scaled_and_never_stays_never():
    node = dict(interval=-1, T_max=10, milestones=[1, 2], begin=0)
    scale(node, 4, 'interval', 'T_max', 'milestones', 'begin', 'end')
    assert node == dict(interval=-1, T_max=40, milestones=[4, 8], begin=0)
