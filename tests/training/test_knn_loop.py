"""k-NN evaluation as a run: what is stored; batches and processes change nothing."""
import json

import pytest
import torch

from semmae.config.options import read_config
from semmae.evaluation.knn import KNNAccuracy
from semmae.models import KNNHead
from semmae.registry import MODELS
from semmae.reporting.tables import build_tables
from semmae.results.results import read_results
from semmae.training import run as training

from ..tiny import REPO, tool

CONFIG = 'mm_configs/mini/knn_p16_mini.py'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """An untrained ViT of the mini size."""
    torch.manual_seed(0)
    backbone = dict(read_config(REPO / CONFIG).model.backbone, init_cfg=None)
    vit = MODELS.build(backbone)
    vit.init_weights()
    path = tmp_path_factory.mktemp('vit') / 'vit.pth'
    torch.save(vit.state_dict(), path)
    return path


def options(toy, weights, batch_size):
    return {'model.backbone.init_cfg.checkpoint': str(weights), 'model.head.k': 3,
            'model.head.also': [1, 5], 'train_dataloader.batch_size': batch_size,
            'val_dataloader.batch_size': batch_size,
            'train_dataloader.dataset.dataset.data_root': str(toy / 'imagenet/train'),
            'val_dataloader.dataset.data_root': str(toy / 'imagenet/val')}


@pytest.fixture(scope='module')
def runs(toy, weights, tmp_path_factory):
    """{batch size: (head after the run, its line)}; 16 training images, 5 do not divide them."""
    found = {}
    for batch_size in (16, 5):
        work = tmp_path_factory.mktemp(f'batch{batch_size}')
        model = training.train(str(REPO / CONFIG), work_dir=work,
                             options=options(toy, weights, batch_size))
        found[batch_size] = model.head, json.loads((work / 'results.jsonl').read_text()), work
    return found


@pytest.mark.slow
def test_all_training_images_are_remembered_with_length_one(runs):
    head = runs[16][0]
    assert head.bank.shape == (16, 96) and sorted(set(head.labels.tolist())) == list(range(8))
    torch.testing.assert_close(head.bank.norm(dim=1), torch.ones(16))


def test_batches_change_neither_the_bank_nor_the_result_nor_its_protocol(runs):
    (one, line, _), (other, again, _) = runs[16], runs[5]
    torch.testing.assert_close(one.bank, other.bank)
    assert one.labels.equal(other.labels)
    assert (line['value'], line['fingerprint']) == (again['value'], again['fingerprint'])


@pytest.mark.slow
def test_three_processes_on_sixteen_images_give_the_result_of_one(runs, toy, weights, tmp_path):
    given = [f'{k}={str(v).replace(" ", "")}' for k, v in options(toy, weights, 3).items()]
    done = tool('train', CONFIG, '--work-dir', tmp_path, '--cfg-options', *given, processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
    line, expected = json.loads((tmp_path / 'results.jsonl').read_text()), runs[16][1]
    assert (line['value'], line['fingerprint']) == (expected['value'], expected['fingerprint'])


def test_the_protocol_says_how_votes_are_counted_and_what_is_looked_at(runs):
    line = runs[16][1]
    protocol = line['protocol']
    assert line['row'].startswith('knn/') and line['metric'] == 'accuracy/top1'
    assert (protocol['model.head.k'], protocol['model.head.temperature']) == (3, .07)
    assert protocol['model.backbone.out_type'] == 'cls_token' and line['kind'] == 'frozen'
    assert not [k for k in protocol if k.startswith(('optim_wrapper', 'batch_size', 'precision'))]
    assert '16 of 1281167 training images' in line['reduced_why']


def test_the_result_stands_in_a_table_of_its_task_and_in_no_cell_of_the_paper(runs):
    frames = build_tables(read_results([runs[16][2]])[0])
    (frame,) = [frame for name, frame in frames.items() if str(name).startswith('knn-')]
    assert runs[16][1]['row'] == frame['setting'][0] and 'paper' not in frame


def test_an_image_that_is_its_own_neighbour_is_recognised(runs):
    """Training images as queries: with k = 1 each finds itself."""
    head = KNNHead(8, k=1)
    head.remember(runs[16][0].bank, runs[16][0].labels)
    samples = head.predict((3 * head.bank,))
    assert [s.pred_label.item() for s in samples] == head.labels.tolist()


def test_each_number_of_neighbours_has_its_accuracy():
    metric = KNNAccuracy()
    metric.process(None, [dict(gt_label=torch.tensor([1]), knn_labels={10: 1, 100: 0}),
                          dict(gt_label=torch.tensor([2]), knn_labels={10: 2, 100: 2})])
    assert metric.evaluate(2) == {'knn/top1_k10': 100., 'knn/top1_k100': 50.}


@pytest.mark.parametrize('features, labels, said', [
    (torch.ones(2, 4), torch.tensor([0, 1]), 'got 2 training images, expected at least 3'),
    (torch.ones(3, 4), torch.tensor([0, 1, 8]), 'labels from 0 to 8, expected 0 to 7'),
    (torch.full((3, 4), torch.nan), torch.tensor([0, 1, 2]), 'NaN or infinite')])
def test_a_bank_that_cannot_vote_is_refused(features, labels, said):
    with pytest.raises(ValueError, match=said):
        KNNHead(8, k=3).remember(features, labels)


def test_training_images_that_are_left_out_are_noticed(toy, weights, tmp_path):
    with pytest.raises(ValueError, match='1 of 16 training images were not read'):
        training.train(str(REPO / CONFIG), work_dir=tmp_path, options={
            **options(toy, weights, 5), 'train_dataloader.drop_last': True})


def test_a_test_says_that_the_config_evaluates_by_itself(weights, tmp_path):
    with pytest.raises(ValueError, match='has no test of its own.*tools/train.py'):
        training.test(str(REPO / CONFIG), weights, work_dir=tmp_path)
