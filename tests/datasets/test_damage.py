"""Images and labels as found in the wild: read right, replaced the same way each time, or named."""
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader

from benchmarks.reliability import images
from semmae.datasets.damage import DamagedImage, LoadImage, SeededOrNext
from semmae.datasets.seeded import Seeded, SeededSampler
from semmae.engine.data_check import DataCheckHook

REPO = Path(__file__).resolve().parents[2]
PIPELINE = [dict(type='semmae.LoadImage'), dict(type='semmae.FlipWithParts', prob=.5),
            dict(type='semmae.PackImage', num_noise=2)]


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    found = {}
    for row, name, ours, _ in images.cases(tmp_path_factory.mktemp('cases')):
        found.setdefault(row, {})[name] = ours()
    return found


@pytest.mark.parametrize('row, at_least', [('R10', 32), ('R11', 8), ('R12', 10_000), ('R13', 12)])
def test_every_case_has_the_required_outcome(outcomes, row, at_least):
    assert [name for name, is_right in outcomes[row].items() if not is_right] == []
    assert len(outcomes[row]) >= at_least


def folder_of(root, num, **damaged):
    root.mkdir()
    for i in range(num):
        images.photo(seed=i).save(root / f'{i:02}.png')
    for name, content in damaged.items():
        path = root / f'{name[1:]}.png'
        path.unlink()
        images.place(root, path.name, content)
    return root


def training_set(root, **kwargs):
    data = SeededOrNext(dict(type='semmae.PartDataset', data_root=str(root), pipeline=PIPELINE),
                        seed=5, **kwargs)
    return data


def epoch_of(data, workers=0):
    loader = DataLoader(data, 2, sampler=SeededSampler(data, seed=5), num_workers=workers)
    batches = [{k: v for k, v in batch.items() if torch.is_tensor(v)} for batch in loader]
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_a_damaged_image_is_replaced_by_the_sample_of_the_next_and_by_no_other(tmp_path):
    whole = training_set(folder_of(tmp_path / 'whole', 8))
    data = training_set(folder_of(tmp_path / 'damaged', 8, _03=b'', _04=b'<html>', _07=b'x'),
                        max_damaged=.5)
    stands_in = {3: 5, 4: 5, 7: 0}
    for i in range(8):
        # The index after the last one is drawn for as 8, but shows image 0.
        mine, wanted = data[2, i], whole[2, 8 if i == 7 else stands_in.get(i, i)]
        assert mine.keys() == wanted.keys()
        for key in mine:
            if torch.is_tensor(mine[key]):
                assert mine[key].equal(wanted[key]), (i, key)
    assert data.is_damaged.nonzero().flatten().tolist() == [3, 4, 7]


def test_workers_change_nothing_and_their_damage_is_counted_once(tmp_path, caplog):
    root = folder_of(tmp_path / 'photos', 8, _02=b'', _06=b'<html>')
    one, several = training_set(root, max_damaged=.5), training_set(root, max_damaged=.5)
    for _ in range(2):
        first, second = epoch_of(one), epoch_of(several, workers=2)
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first)
        assert one.num_damaged == several.num_damaged == 2


def test_path_and_reason_are_logged_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('semmae.datasets.damage.print_log', lambda text, *_: said.append(text))
    data = training_set(folder_of(tmp_path / 'photos', 3, _01=b''))
    for epoch in range(3):
        data[epoch, 1]
    assert len(said) == 1 and '01.png' in said[0] and '0 bytes' in said[0]


def test_more_damage_than_allowed_ends_the_run_with_the_number_and_a_name(tmp_path):
    data = training_set(folder_of(tmp_path / 'photos', 8, _02=b'', _06=b'<html>'))
    with pytest.raises(ValueError, match=r'found 2 damaged images among 8, expected at most 1.*'
                                         r'0[26]\.png'):
        epoch_of(data)


def test_a_set_without_a_single_good_image_ends(tmp_path):
    data = training_set(folder_of(tmp_path / 'photos', 2, _00=b'', _01=b''), max_damaged=1.)
    with pytest.raises(ValueError, match='found 2 damaged images among 2'):
        data[0, 0]


def test_what_is_not_damage_to_an_image_is_not_replaced(tmp_path):
    data = training_set(folder_of(tmp_path / 'photos', 2))
    data.dataset.pipeline.transforms.insert(0, lambda results: int('no number'))
    with pytest.raises(ValueError, match='invalid literal'):
        data[0, 0]
    assert data.num_damaged == 0


@pytest.mark.parametrize('workers', [0, 1])
def test_outside_of_training_a_damaged_image_is_an_error_with_its_name(tmp_path, workers):
    data = Seeded(dict(type='semmae.PartDataset', pipeline=PIPELINE, test_mode=True,
                       data_root=str(folder_of(tmp_path / 'photos', 2, _01=b''))))
    with pytest.raises(DamagedImage, match='01.png cannot be read: it is empty'):
        list(DataLoader(data, 1, sampler=[(0, 0), (0, 1)], num_workers=workers))


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = images.place(tmp_path, 'photo.png', images.encoded(images.photo(), 'PNG'))
    monkeypatch.setattr('mmcv.imfrombytes', lambda *_, **__: pytest.fail('decoded'))
    with pytest.raises(DamagedImage, match='32x32 pixels, expected at most 1,023'):
        LoadImage(max_pixels=1023).transform(dict(img_path=path))


def runner_with(num_classes, classes, **head):
    data = SimpleNamespace(metainfo=dict(classes=classes))
    return SimpleNamespace(
        model=SimpleNamespace(head=SimpleNamespace(num_classes=num_classes, **head)),
        train_dataloader=SimpleNamespace(dataset=data))


@pytest.mark.parametrize('num_classes', [2, 4])
def test_a_head_with_another_number_of_classes_is_refused_before_training(num_classes):
    with pytest.raises(ValueError, match=f'head.num_classes is {num_classes}, .* has 3 classes'):
        DataCheckHook().before_train(runner_with(num_classes, ('a', 'b', 'c')))


@pytest.mark.parametrize('label, is_right', [(0, True), (2, True), (3, False), (-1, False)])
def test_a_class_label_out_of_range_is_named_before_the_step(label, is_right):
    hook, runner = DataCheckHook(), runner_with(3, ('a', 'b', 'c'))
    hook.before_train(runner)
    sample = DataSample(metainfo=dict(img_path='x/photo.jpg')).set_gt_label(label)
    if is_right:
        return hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    with pytest.raises(ValueError, match=f'x/photo.jpg: found label {label}, expected 0 to 2'):
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))


@pytest.mark.parametrize('ignore_index, is_right', [(255, False), (7, True)])
def test_a_label_map_with_a_value_that_is_no_class_is_named_before_the_step(ignore_index, is_right):
    hook, runner = DataCheckHook(), runner_with(3, ('a', 'b', 'c'), ignore_index=ignore_index)
    hook.before_train(runner)
    sample = SegDataSample(metainfo=dict(seg_map_path='x/labels.png'),
                           gt_sem_seg=PixelData(data=torch.tensor([[[0, 1], [2, 7]]])))
    if is_right:
        return hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    with pytest.raises(ValueError, match='x/labels.png: found label 7, expected 0 to 2, or 255'):
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))


def test_the_tool_finds_beforehand_what_training_would_replace(tmp_path):
    spec = importlib.util.spec_from_file_location('check_data', REPO / 'tools/check_data.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    bad = {name: content for name, content in images.bad_images().items()
           if isinstance(content, bytes)}
    content = images.encoded(images.photo(256), 'JPEG', quality=90)
    start = content.index(b'\xff\xda') + 600
    bad['marker_inside.jpg'] = content[:start] + b'\xff\xd3' * 20 + content[start + 40:]
    for name, content in {**bad, **images.good_images()}.items():
        images.place(tmp_path, name, content)
    found = {path.name: tool.unreadable_because(path) for path in sorted(tmp_path.iterdir())}
    assert {name for name, reason in found.items() if reason} == set(bad)


def test_every_shipped_pipeline_reads_images_and_labels_this_way():
    text = '\n'.join(path.read_text() for path in (REPO / 'mm_configs').rglob('*.py'))
    for stock in ("'LoadImageFromFile'", "'LoadAnnotations'", "'semmae.Seeded'",
                  "'mmseg.IoUMetric'"):
        assert f'type={stock}' not in text
    assert np.all([f"type='semmae.{own}'" in text for own in (
        'LoadImage', 'LoadAnnotations', 'SeededOrNext', 'IoUMetric', 'DataCheckHook')])
