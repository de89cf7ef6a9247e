"""What was predicted is kept for each image, and a number that does not follow from it is refused.

Segmentation and classification of the toy set, counted again here from the stored files alone.
"""
import json

import numpy as np
import pytest
from PIL import Image

from semmae.recording.line import require_agreement
from semmae.results.predictions import (
    PAIRS,
    confused_pixels,
    pixel_counts,
    read_predictions,
    recount,
    stacked,
)
from semmae.training import run as training

from ..tiny import REPO, tool

MINI = REPO / 'mm_configs/mini'


def line_of(work):
    return json.loads((work / 'results.jsonl').read_text().splitlines()[-1])


@pytest.fixture(scope='module')
def segmented(toy, tmp_path_factory):
    """(work directory, options) of a UPerNet that took two steps."""
    work, root = tmp_path_factory.mktemp('segmented'), str(toy / 'ADEChallengeData2016')
    options = {f'{loader}_dataloader.dataset{inner}.data_root': root for loader, inner in (
        ('train', '.dataset'), ('val', ''), ('test', ''))}
    training.train(MINI / 'semmae_upernet_ade20k_mini.py', work_dir=work, seed=0, options={
        'train_dataloader.batch_size': 2, 'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2,
        'model.backbone.init_cfg': None, **options})
    return work, options


def test_miou_is_that_of_the_stored_label_maps_and_the_annotations(segmented, toy):
    work, _ = segmented
    line = line_of(work)
    maps = sorted((work / line['predictions']).with_suffix('').rglob('*.png'))
    assert [m.name for m in maps] == ['ADE_val_00000001.png', 'ADE_val_00000002.png']
    confusion = np.zeros((8, 8))
    for path in maps:
        truth = np.array(Image.open(
            toy / 'ADEChallengeData2016/annotations/validation' / path.name)).astype(int) - 1
        found = np.array(Image.open(path)).astype(int)
        for t, p in zip(truth[truth >= 0], found[truth >= 0]):
            confusion[t, p] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    miou = 100 * np.mean(confusion.diagonal()[union > 0] / union[union > 0])
    assert line['value'] == pytest.approx(miou, abs=.0051)
    stored = read_predictions(work / line['predictions'])
    assert recount(stored)['mIoU'] == pytest.approx(miou)
    again = np.diag(stored['intersection'].sum(0).astype(float))
    for _, true, wrong, pixels in stored[PAIRS]:
        again[true, wrong] += pixels
    assert (again == confusion).all()


@pytest.mark.slow
def test_three_processes_on_two_images_store_the_predictions_of_one(segmented, tmp_path):
    work, options = segmented
    done = tool('test', MINI / 'semmae_upernet_ade20k_mini.py', work / 'iter_2.pth',
                '--work-dir', tmp_path, '--cfg-options', 'model.backbone.init_cfg=None',
                *(f'{k}={v}' for k, v in options.items()), processes=3)
    assert done.returncode == 0, done.stderr[-9000:]
    assert line_of(tmp_path)['predictions'] == line_of(work)['predictions']
    assert {p.name for p in (tmp_path / 'predictions').iterdir()} == {
        p.name for p in (work / 'predictions').iterdir()}


def test_accuracy_is_that_of_the_stored_predictions_and_the_lists_of_cub(toy, tmp_path):
    root = toy / 'CUB_200_2011'
    training.train(MINI / 'semmae_cub_mini.py', work_dir=tmp_path, seed=0, options={
        'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'model.backbone.init_cfg': None,
        'train_dataloader.batch_size': 8, 'train_dataloader.dataset.dataset.data_root': str(root),
        'val_dataloader.dataset.data_root': str(root)})
    line = line_of(tmp_path)
    stored = read_predictions(tmp_path / line['predictions'])

    def read(name):
        return dict(row.split() for row in (root / name).read_text().splitlines())
    images, classes, is_train = (read(name) for name in (
        'images.txt', 'image_class_labels.txt', 'train_test_split.txt'))
    truth = {images[i]: int(classes[i]) - 1 for i in images if is_train[i] == '0'}
    assert dict(zip(stored['images'], stored['labels'])) == truth
    right = [truth[name] == p for name, p in zip(stored['images'], stored['predicted'])]
    assert line['value'] == pytest.approx(100 * np.mean(right), abs=1e-4)
    assert ((0 < stored['score']) & (stored['score'] <= 1)).all()


def test_pixels_are_counted_by_class_and_ignored_ones_apart():
    predicted = np.array([[0, 1], [1, 2]])
    label = np.array([[0, 1], [2, 255]])
    counts = pixel_counts(predicted, label, 4)
    assert {k: v.tolist() for k, v in counts.items()} == dict(
        label=[1, 1, 1, 0], predicted=[1, 2, 0, 0], intersection=[1, 1, 0, 0], ignored=1)
    again = recount({k: v[None] for k, v in counts.items()})
    # IoU 1/1, 1/2, 0/1; class 3 is nowhere. Accuracy of the classes 1, 1, 0.
    assert again == pytest.approx(dict(mIoU=50, mAcc=200 / 3, aAcc=200 / 3))


def test_confused_pixels_are_pairs_of_classes_with_the_number_of_their_image():
    first = confused_pixels(np.array([[0, 1], [2, 2]]), np.array([[1, 1], [1, 255]]))
    second = confused_pixels(np.array([[0, 0]]), np.array([[1, 1]]))
    assert first.tolist() == [[1, 0, 1], [1, 2, 1]] and second.tolist() == [[1, 0, 2]]
    none = confused_pixels(np.zeros((2, 2), int), np.zeros((2, 2), int))
    assert none.shape == (0, 3)
    rows = [dict(images=str(k), confused=found) for k, found in enumerate((first, none, second))]
    assert stacked(rows)[PAIRS].tolist() == [[0, 1, 0, 1], [0, 1, 2, 1], [2, 1, 0, 2]]
    assert stacked(rows)['images'].tolist() == ['0', '1', '2']


@pytest.mark.parametrize('pairs', [
    [[0, 0, 1]], [[1, 0, 1, 2]], [[0, 0, 2, 2]], [[0, -1, 1, 2]], [[0, 0, 1, .5]]])
def test_pairs_of_classes_that_cannot_be_are_refused(tmp_path, pairs):
    counts = {name: [[2, 2]] for name in ('label', 'predicted', 'intersection')}
    np.savez(tmp_path / 'x.npz', images=['a'], confused=[[0, 0, 1, 2]], **counts)
    assert len(read_predictions(tmp_path / 'x.npz')[PAIRS]) == 1
    np.savez(tmp_path / 'x.npz', images=['a'], confused=pairs, **counts)
    with pytest.raises(ValueError, match='expected four columns in confused'):
        read_predictions(tmp_path / 'x.npz')


@pytest.mark.parametrize('predicted, label, said', [
    ([[0, 3]], [[0, 0]], r'values 0 to 3 \(predicted\), expected 0 to 2'),
    ([[0, 0]], [[0, 7]], r'values 0 to 7 \(label\), expected 0 to 2, or 255'),
    ([[0]], [[0, 0]], 'expected the same')])
def test_a_pixel_of_no_class_is_an_error_and_not_left_out(predicted, label, said):
    with pytest.raises(ValueError, match=said):
        pixel_counts(np.array(predicted), np.array(label), 3)


def test_a_metric_that_does_not_follow_from_its_predictions_is_refused():
    arrays = dict(predicted=np.array([0, 1, 1, 1]), labels=np.array([0, 1, 1, 0]))
    require_agreement({'accuracy/top1': 75.004, 'accuracy/top5': 3.}, arrays, 'x')
    with pytest.raises(ValueError, match='gives accuracy/top1 50.0000, x says 75.0000'):
        require_agreement({'accuracy/top1': 50.}, arrays, 'x')


@pytest.mark.parametrize('write, said', [
    (lambda p: None, 'tools/test.py'), (lambda p: p.write_bytes(b'no'), 'holds no predictions'),
    (lambda p: np.savez(p, images=['a', 'b'], predicted=[1], labels=[1, 2]), 'for each')])
def test_a_file_without_predictions_is_named(tmp_path, write, said):
    write(tmp_path / 'x.npz')
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_predictions(tmp_path / 'x.npz')
