"""The toy sets: what is drawn, what is written, and when it is written again."""
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semmae.datasets import toy
from tests.datasets.conftest import SMALL

TRAIN, VAL, CUB = toy.SPLITS[0], toy.SPLITS[1], toy.SPLITS[2]
BODY, HEAD, FRONT_LIMB, REAR_LIMB, TAIL, WING, SADDLE = range(1, 8)


@pytest.fixture(scope='module')
def drawn():
    """240 images, their pieces and labels."""
    return [np.array(a) for a in zip(*(toy.draw(0, TRAIN, i) for i in range(240)))]


def digests(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob('*')) if p.is_file()}


def labels_of(path):
    with Image.open(path) as image:
        assert image.mode == 'L'
        return np.array(image)


def test_objects_cover_half_of_the_image(drawn):
    share = (drawn[1] > 0).mean((1, 2))
    assert 0.47 < share.mean() < 0.58
    assert share.min() > 0.3 and share.max() < 0.8


def test_every_kind_of_part_can_be_seen_in_every_image(drawn):
    counts = np.array([np.bincount(toy.PIECE_TO_PART[p].ravel(), minlength=6) for p in drawn[1]])
    assert counts.min() > 25  # pixels of 4,096


def test_class_is_the_relation_of_parts(drawn):
    _, pieces, labels = drawn
    rows = np.arange(64)[:, None] * np.ones((1, 64))
    columns = rows.T

    def centre(image, piece, axis):
        return axis[image == piece].mean()

    head_is_higher = []
    for image, label in zip(pieces, labels):
        assert (TAIL in image, WING in image) == ((False, True) if label & 2 else (True, False))
        facing = np.sign(centre(image, HEAD, columns) - centre(image, BODY, columns))
        along = centre(image, SADDLE, columns) - centre(image, BODY, columns)
        head_is_higher.append(
            [label >> 3, centre(image, BODY, rows) - centre(image, HEAD, rows)])
        if image[:, [0, -1]].max() == 0:  # nothing is cut off, so centroids are true
            assert (facing * along > 0) == (label & 1 == 0)
    is_low, rise = np.array(head_is_higher).T
    assert rise[is_low == 0].mean() > 10 and rise[is_low == 1].mean() < 0


@pytest.mark.slow
def test_colours_are_independent_of_the_class():
    """Nearest centroid and ridge regression on colour histograms: chance is 0.125, s.e. 0.013."""
    def histograms(split, count):
        cells = [toy.draw(0, split, i, image_size=32)[0] // 64 @ [16, 4, 1] for i in range(count)]
        return np.array([np.bincount(c.ravel(), minlength=64) for c in cells]) / 1024

    train, test = histograms(TRAIN, 800), histograms(VAL, 640)
    labels, truth = np.arange(800) % 8, np.arange(640) % 8
    centroids = np.array([train[labels == k].mean(0) for k in range(8)])
    nearest = ((test[:, None] - centroids) ** 2).sum(-1).argmin(1)
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z = (np.c_[(h - mean) / std, np.ones(len(h))] for h in (train, test))
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(65), x.T @ np.eye(8)[labels])
    for guess in (nearest, (z @ weights).argmax(1)):
        assert (guess == truth).mean() < 0.125 + 0.06


def test_an_image_depends_on_seed_split_and_index_only():
    image = toy.draw(3, TRAIN, 7)[0]
    assert np.array_equal(image, toy.draw(3, TRAIN, 7)[0])
    for other in (toy.draw(4, TRAIN, 7), toy.draw(3, VAL, 7), toy.draw(3, TRAIN, 15)):
        assert not np.array_equal(image, other[0])


def test_two_runs_write_the_same_bytes_for_any_number_of_workers(made, tmp_path):
    assert digests(made) == digests(toy.write_toy(tmp_path / 'again', **SMALL, workers=2))


def test_imagenet_layout_has_one_label_map_an_image(made):
    images = sorted((made / 'imagenet/train').rglob('*.JPEG'))
    assert len(images) == 24
    assert [p.name for p in sorted((made / 'imagenet/val').iterdir())] == list(toy.CLASSES)
    assert len(toy.CLASSES) == 8 and sorted(toy.CLASSES) == list(toy.CLASSES)
    for path in images:
        with Image.open(path) as image:
            assert image.size == (64, 64) and image.mode == 'RGB'
        index = int(path.stem[-6:])
        assert path.parent.name == toy.CLASSES[index % 8]
        labels = labels_of(made / 'imagenet/part_labels/train' / path.parent.name
                           / f'{path.stem}.png')
        assert np.array_equal(labels, toy.PIECE_TO_PART[toy.draw(0, TRAIN, index)[1]])
        assert set(np.unique(labels)) == set(range(6))


def test_ade_layout_ignores_a_thin_line_around_the_object(made):
    folder = made / 'ADEChallengeData2016'
    maps, images = (sorted((folder / kind / 'training').iterdir())
                    for kind in ('annotations', 'images'))
    assert [p.stem for p in maps] == [p.stem for p in images]
    labels = np.array([labels_of(p) for p in maps])
    assert labels.max() == len(toy.ADE_CLASSES) and 0.01 < (labels == 0).mean() < 0.15
    for image in labels:
        assert (4 in image) != (5 in image) and (6 in image) != (7 in image)
        touching = np.sort(np.stack([image[:, 1:], image[:, :-1]]), 0)
        assert not ((touching[0] == 1) & (touching[1] > 1)).any()


def test_cub_images_are_a_little_larger_than_the_crop(made):
    sizes = {Image.open(p).size for p in (made / 'CUB_200_2011/images').rglob('*.jpg')}
    assert len(sizes) > 3 and all(64 < side <= 76 for size in sizes for side in size)


def test_complete_set_is_left_alone(made):
    before = {p: p.stat().st_mtime_ns for p in made.rglob('*')}
    assert toy.write_toy(made, **SMALL) == made
    assert before == {p: p.stat().st_mtime_ns for p in made.rglob('*')}


@pytest.mark.slow
@pytest.mark.parametrize('lost', ['toy.json', 'CUB_200_2011/classes.txt',
                                  f'imagenet/val/{toy.CLASSES[0]}/toy_val_000000.JPEG'])
def test_half_written_set_is_written_again(made, tmp_path, lost):
    root = Path(shutil.copytree(made, tmp_path / 'set'))
    (root / lost).unlink()
    left_over = root / 'imagenet/train/left_over.JPEG'
    left_over.touch()
    assert toy.read_record(root) is None
    toy.write_toy(root, **SMALL)
    assert digests(root) == digests(made)


def test_interrupted_writing_leaves_no_record(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(toy, 'write_cub_lists', interrupt)
    smallest = dict(num_imagenet=(8, 8), num_cub=(16, 16), num_ade=(1, 1), progress=False)
    with pytest.raises(KeyboardInterrupt):
        toy.write_toy(tmp_path / 'set', **smallest)
    assert not (tmp_path / 'set/toy.json').exists()
    monkeypatch.undo()
    toy.write_toy(tmp_path / 'set', **smallest)
    assert toy.read_record(tmp_path / 'set')


def test_set_of_other_arguments_is_refused(made):
    with pytest.raises(ValueError, match=r"'seed': 0.* expected .*'seed': 5.*rm -r .*--out"):
        toy.write_toy(made, **SMALL, seed=5)


def test_folders_of_others_are_never_touched(tmp_path):
    image = tmp_path / 'imagenet/train/n01440764/a.JPEG'
    image.parent.mkdir(parents=True)
    image.write_bytes(b'a real image')
    with pytest.raises(ValueError, match='did not write .*--out'):
        toy.write_toy(tmp_path, **SMALL)
    assert digests(tmp_path) == {str(image.relative_to(tmp_path)): hashlib.sha256(
        b'a real image').hexdigest()}


@pytest.mark.parametrize('wrong', [dict(num_imagenet=(24, 4)), dict(num_cub=(8, 16)),
                                   dict(num_ade=(3,)), dict(image_size=8), dict(seed=-1)])
def test_arguments_that_cannot_work_are_refused_first(tmp_path, wrong):
    with pytest.raises(ValueError, match='expected'):
        toy.write_toy(tmp_path / 'set', **{**SMALL, **wrong})
    assert not (tmp_path / 'set').exists()


def test_command_writes_the_set_without_torch(made, tmp_path):
    command = ['--out', str(tmp_path / 'set'), '--num-imagenet', '24', '16', '--num-cub', '32',
               '16', '--num-ade', '6', '3']
    code = (f'import sys; from semmae.datasets.toy import main; rc = main({command!r}); '
            "assert 'torch' not in sys.modules; sys.exit(rc)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / 'set') == digests(made)
    record = json.loads((tmp_path / 'set/toy.json').read_text())
    assert record['arguments']['num_cub'] == [32, 16]
    assert record['files']['imagenet/train']['count'] == 24
    assert toy.main([*command, '--seed', '3']) == 2
