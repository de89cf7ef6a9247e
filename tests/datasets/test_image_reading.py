"""Damaged images and labels are read right, replaced the same way each time, or named."""
import errno
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from PIL import Image
from torch.utils.data import DataLoader

from semmae.checkpoints.read import read_checkpoint
from semmae.config.data_check import DataCheckHook
from semmae.datasets.check import Report, unreadable_because
from semmae.datasets.image_files import DamagedImage
from semmae.datasets.image_reading import LoadImage, read_bytes
from semmae.datasets.seeded import Seeded, SeededOrNext, SeededSampler
from semmae.datasets.transforms import require_upright
from semmae.training import run as training
from tests.reliability import images

REPO = Path(__file__).resolve().parents[2]
PIPELINE = [dict(type='semmae.LoadImage'), dict(type='semmae.FlipWithParts', prob=.5),
            dict(type='semmae.PackImage', num_noise=2)]


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    found = {}
    for row, name, ours, _ in images.cases(tmp_path_factory.mktemp('cases')):
        found.setdefault(row, {})[name] = ours()
    return found


@pytest.mark.parametrize('row, at_least', [
    ('images', 32), ('parts', 8), ('ratio', 10_000), ('labels', 12)])
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
    return SeededOrNext(dict(type='semmae.PartDataset', data_root=str(root), pipeline=PIPELINE),
                        seed=5, **kwargs)


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
        assert one.damaged == several.damaged == [2, 6]


def test_each_process_prints_path_and_reason_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('semmae.datasets.seeded.get_rank', lambda: 3)
    data = training_set(folder_of(tmp_path / 'photos', 3, _01=b''))
    for epoch in range(3):
        data[epoch, 1]
    # The logger, of whichever test made it, may have something to say as well.
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('rank 3: ')]
    assert len(said) == 1
    assert '01.png' in said[0] and '0 bytes' in said[0]


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
    assert data.damaged == []


@pytest.mark.parametrize('workers', [0, 1])
def test_outside_of_training_a_damaged_image_is_an_error_with_its_name(tmp_path, workers):
    data = Seeded(dict(type='semmae.PartDataset', pipeline=PIPELINE, test_mode=True,
                       data_root=str(folder_of(tmp_path / 'photos', 2, _01=b''))))
    batches = iter(DataLoader(data, 1, sampler=[(0, 1)], num_workers=workers))
    with pytest.raises(DamagedImage, match='01.png cannot be read: it is empty'):
        next(batches)
    assert next(batches, None) is None  # which also ends the worker


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = images.place(tmp_path, 'photo.png', images.encoded(images.photo(), 'PNG'))
    monkeypatch.setattr('mmcv.imfrombytes', lambda *_, **__: pytest.fail('decoded'))
    monkeypatch.setattr('semmae.datasets.image_files.MAX_PIXELS', 1023)
    with pytest.raises(DamagedImage, match='32x32 pixels, expected at most 1,023'):
        LoadImage().transform(dict(img_path=path))


@pytest.mark.parametrize('code, is_damage', [
    (errno.ENOENT, True), (errno.EACCES, True), (errno.ENOTDIR, True), (errno.EISDIR, True),
    (errno.EIO, False), (errno.EMFILE, False), (errno.ESTALE, False)])
def test_only_what_is_wrong_with_the_file_is_damage(monkeypatch, code, is_damage):
    def failing(*_, **__):
        raise OSError(code, 'said by the system')
    monkeypatch.setattr('mmengine.fileio.get', failing)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with pytest.raises(DamagedImage if is_damage else OSError, match='x/photo.jpg') as error:
        read_bytes('x/photo.jpg')
    assert is_damage or error.value.errno == code


def test_an_error_of_the_disk_that_does_not_come_again_changes_nothing(tmp_path, monkeypatch):
    whole, waits, read = training_set(folder_of(tmp_path / 'photos', 2)), [], open

    def flaky(path, *args, **kwargs):
        if not waits:
            raise OSError(errno.EIO, 'Input/output error')
        return read(path, *args, **kwargs)
    wanted = whole[0, 0]
    monkeypatch.setattr('time.sleep', waits.append)
    monkeypatch.setattr('mmengine.fileio.backends.local_backend.open', flaky, raising=False)
    assert whole[0, 0]['inputs'].equal(wanted['inputs'])
    assert waits == [1] and whole.damaged == []


@pytest.mark.parametrize('no_memory', [MemoryError(), cv2.error('Insufficient memory')])
def test_no_memory_is_no_damage(tmp_path, monkeypatch, no_memory):
    data = training_set(folder_of(tmp_path / 'photos', 2))

    def failing(*_, **__):
        no_memory.code = cv2.Error.StsNoMem
        raise no_memory
    monkeypatch.setattr('mmcv.imfrombytes', failing)
    with pytest.raises(MemoryError, match='00.png'):
        data[0, 0]
    assert data.damaged == []


@pytest.mark.filterwarnings('ignore')
def test_exif_of_any_bytes_keeps_no_image_from_being_read(tmp_path):
    exif = Image.Exif()
    exif.update({0x010f: 'Camera', 0x0110: 'Model', 0x0112: 1, 0x011a: 72., 0x0132: '2009:01:01'})
    image = images.encoded(images.photo(), 'JPEG', exif=exif, dpi=(72, 72))
    upright = LoadImage().transform(dict(img_path=images.place(tmp_path, 'a.jpg', image)))['img']
    start = image.index(b'Exif\0\0') + 6
    length = int.from_bytes(image[start - 8:start - 6], 'big') - 8
    rng, turned = np.random.default_rng(0), 0
    for _ in range(200):
        content = bytearray(image)
        for place in rng.integers(start, start + length, size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path = images.place(tmp_path, 'changed.jpg', bytes(content))
        found = LoadImage().transform(dict(img_path=path))
        if 'is_turned' in found:
            turned += 1
            with pytest.raises(ValueError, match='turned by its EXIF tag'):
                require_upright(path)
        else:
            assert np.array_equal(found['img'], upright)
            require_upright(path)
    assert turned < 20


# What the hook knows of the whole run

def hooked(data, **more):
    """(hook, runner) as after a training set was built."""
    hooks = [SimpleNamespace(join_hooks=None)]
    return DataCheckHook(), SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=data), hooks=hooks, _resume=True, **more)


class Numbers:
    """Six thousand samples, of which those in ``damaged`` cannot be read."""

    def __init__(self, *damaged):
        self.damaged = damaged

    def __len__(self):
        return 6000

    def __getitem__(self, index):
        if index in self.damaged:
            raise DamagedImage(f'image {index} cannot be read')
        return index


def rank_of_two(rank, folder):
    """Each process meets damage of its own: 1 and 2 images, then 3 more each; 6 are allowed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet',
                                         rank=rank, world_size=2)
    mine = [[7], [1, 4999]][rank]
    data = SeededOrNext(Numbers(*mine, *range(100 + 10 * rank, 103 + 10 * rank)))
    hook, runner = hooked(data)
    for index in mine:
        data[0, index]
    first = dict(meta={}, optimizer={})
    hook.before_save_checkpoint(runner, first)
    for index in range(100, 120):
        data[0, index]
    alone = dict(meta={})  # as for the best weights: the other process is not asked
    hook.before_save_checkpoint(runner, alone)
    try:
        hook.after_train_epoch(runner)
        said = ''
    except ValueError as error:
        said = str(error)
    torch.save((first['meta'], alone['meta'], said), f'{folder}/rank{rank}.pt')
    torch.distributed.destroy_process_group()


def test_damage_is_counted_over_all_processes_and_too_much_stops_them_all(tmp_path):
    torch.multiprocessing.start_processes(rank_of_two, (str(tmp_path),), nprocs=2,
                                          start_method='fork')
    for rank, own in enumerate((range(100, 103), range(110, 113))):
        first, alone, said = torch.load(tmp_path / f'rank{rank}.pt')
        assert first['damaged_images'] == [1, 7, 4999]
        assert alone['damaged_images'] == [1, 7, *own, 4999]
        # 6 each, 9 together.
        assert said.startswith('found 9 damaged images among 6,000, expected at most 6')


@pytest.mark.parametrize('resumes, known, wanted', [
    (True, [1, 7, 9999], [1, 7]), (False, [1, 7], []), (True, 3, []), (True, None, [])])
def test_a_resumed_run_knows_the_damage_of_before(resumes, known, wanted):
    hook, runner = hooked(SeededOrNext(Numbers()))
    runner._resume = resumes
    hook.after_load_checkpoint(runner, dict(meta=dict(damaged_images=known)))
    assert runner.train_dataloader.dataset.damaged == wanted


def runner_with(num_classes, classes, evaluated=None, **head):
    def loader(names):
        return SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=names)))
    return SimpleNamespace(
        model=SimpleNamespace(head=SimpleNamespace(num_classes=num_classes, **head)),
        train_dataloader=loader(classes), val_loop=evaluated and object(),
        val_dataloader=loader(evaluated), test_dataloader=loader(evaluated))


@pytest.mark.parametrize('num_classes', [2, 4])
def test_a_head_with_another_number_of_classes_is_refused_before_training(num_classes):
    with pytest.raises(ValueError, match=f'head.num_classes is {num_classes}, .* has 3 classes'):
        DataCheckHook().before_train(runner_with(num_classes, ('a', 'b', 'c')))


@pytest.mark.parametrize('evaluated, said', [
    ('ac', 'head.num_classes is 3, the validation set has 2 classes'),
    ('abd', "label 2 is 'd' in the validation set and 'c' in the training set"),
    ('bac', "label 0 is 'b' in the validation set and 'a' in the training set")])
def test_a_validation_set_of_other_classes_is_refused_before_training(evaluated, said):
    with pytest.raises(ValueError, match=said):
        DataCheckHook().before_train(runner_with(3, list('abc'), tuple(evaluated)))
    DataCheckHook().before_train(runner_with(3, list('abc'), tuple('abc')))


def test_a_test_set_of_other_classes_than_the_checkpoints_training_is_refused():
    hook, runner = DataCheckHook(), runner_with(3, (), tuple('bac'))
    runner._resume = False
    hook.after_load_checkpoint(runner, dict(meta=dict(dataset_meta=dict(classes=list('abc')))))
    with pytest.raises(ValueError, match="label 0 is 'b' in the test set and 'a' in the training"):
        hook.before_test_epoch(runner)
    hook.after_load_checkpoint(runner, dict(meta={}))  # a file that does not say
    hook.before_test_epoch(runner)


@pytest.mark.parametrize('mode', ['val', 'test'])
def test_without_a_training_the_number_of_classes_is_compared(mode):
    def begin(*args):
        getattr(DataCheckHook(), f'before_{mode}_epoch')(runner_with(3, *args))
    begin((), 'xyz')
    begin((), None)  # a set without class names
    with pytest.raises(ValueError, match='the (validation|test) set has 2 classes'):
        begin((), 'ac')


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
@pytest.mark.parametrize('label, is_right', [(0, True), (2, True), (3, False), (-1, False)])
def test_a_class_label_out_of_range_is_named_before_the_step(mode, label, is_right):
    runner = runner_with(3, ('a', 'b', 'c'))
    step = getattr(DataCheckHook(), f'before_{mode}_iter')
    sample = DataSample(metainfo=dict(img_path='x/photo.jpg')).set_gt_label(label)
    if is_right:
        return step(runner, 0, dict(data_samples=[sample]))
    with pytest.raises(ValueError, match=f'x/photo.jpg: got label {label}, expected 0 to 2'):
        step(runner, 0, dict(data_samples=[sample]))


@pytest.mark.parametrize('ignore_index, is_right', [(255, False), (7, True)])
def test_a_label_map_with_a_value_that_is_no_class_is_named_before_the_step(ignore_index, is_right):
    hook, runner = DataCheckHook(), runner_with(3, ('a', 'b', 'c'), ignore_index=ignore_index)
    sample = SegDataSample(metainfo=dict(seg_map_path='x/labels.png'),
                           gt_sem_seg=PixelData(data=torch.tensor([[[0, 1], [2, 7]]])))
    if is_right:
        return hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    with pytest.raises(ValueError, match='x/labels.png: got label 7, expected 0 to 2, or 255'):
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))


MINI = REPO / 'mm_configs/mini/semmae_finetune_mini.py'


def options(root, val, **more):
    """Of a fine-tuning of one epoch on copies of the toy set."""
    return {'model.backbone.init_cfg': None, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1,
            'train_dataloader.batch_size': 8,
            'train_dataloader.dataset.dataset.data_root': str(root / 'train'),
            'val_dataloader.dataset.data_root': str(root / val),
            'test_dataloader.dataset.data_root': str(root / val), **more}


def test_a_run_refuses_other_classes_and_keeps_its_damage_in_the_checkpoint(
        toy, tmp_path, capsys, monkeypatch):
    # Without these two, which take longer than the training.
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    for name in ('train', 'val', 'other'):
        shutil.copytree(toy / 'imagenet' / name.replace('other', 'val'), tmp_path / name)
    first, second = sorted((tmp_path / 'other').iterdir())[:2]
    second.rename(f'{first}_too')
    with pytest.raises(ValueError, match="label 1 is '.*_too' in the validation set"):
        training.train(MINI, work_dir=tmp_path / 'refused', options=options(tmp_path, 'other'))
    assert not list((tmp_path / 'refused').glob('*.pth'))

    damaged = sorted((tmp_path / 'train').rglob('*.JPEG'))[3]
    damaged.write_bytes(b'')
    training.train(MINI, work_dir=tmp_path / 'work', options=options(tmp_path, 'val'))
    assert f'rank 0: damaged image, the next one is taken: {damaged}' in capsys.readouterr().err
    checkpoint = read_checkpoint(tmp_path / 'work/epoch_1.pth')
    assert checkpoint['meta']['damaged_images'] == [3]
    shutil.rmtree(first)
    with pytest.raises(ValueError, match='the test set has 7 classes'):
        training.test(MINI, tmp_path / 'work/epoch_1.pth', work_dir=tmp_path / 'test',
                    options=options(tmp_path, 'other'))


def test_the_tool_finds_beforehand_what_training_would_replace(tmp_path):
    bad = {name: content for name, content in images.bad_images().items()
           if isinstance(content, bytes)}
    content = images.encoded(images.photo(256), 'JPEG', quality=90)
    start = content.index(b'\xff\xda') + 600
    bad['marker_inside.jpg'] = content[:start] + b'\xff\xd3' * 20 + content[start + 40:]
    bad['checksum.png'] = wrong_checksum(images.photo())
    for name, content in {**bad, **images.good_images()}.items():
        images.place(tmp_path, name, content)
    found = {path.name: unreadable_because(path) for path in sorted(tmp_path.iterdir())}
    assert {name for name, reason in found.items() if reason} == set(bad)
    assert all(str(tmp_path / name) in found[name] for name in bad)


def wrong_checksum(image):
    """A PNG whose pixels are whole and whose checksum of them is not."""
    content = bytearray(images.encoded(image, 'PNG'))
    end = content.index(b'IEND')
    content[end - 5] ^= 255
    return bytes(content)


def test_the_tool_finds_label_maps_that_training_would_refuse(tmp_path):
    labels = Image.fromarray(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32) % 5)
    cases = {
        'good': ('', images.encoded(labels, 'PNG'), images.encoded(images.photo(), 'JPEG')),
        'checksum': ('image file|broken|CRC', wrong_checksum(labels), images.turned(1)),
        'jpeg': ('is a JPEG', images.encoded(labels, 'JPEG'), images.turned(1)),
        'size': ('16x32 pixels, its image', images.encoded(labels.crop((0, 0, 16, 32)), 'PNG'),
                 images.turned(1)),
        'turned': ('turned by its EXIF', images.encoded(labels, 'PNG'), images.turned(3)),
        'value': (r'value.png \(9\)', images.encoded(labels.point(lambda v: v + 5), 'PNG'),
                  images.turned(1))}
    for name, (said, label, photo) in cases.items():
        pair = tuple(Path(images.place(tmp_path, file, content)) for file, content in (
            (f'{name}.png', label), (f'{name}.jpg', photo)))
        report = Report(reads_all=True)
        report.maps([pair], 4)
        if not said:
            assert report.problems == []
        else:
            assert len(report.problems) == 1 and re.search(said, report.problems[0][0]), name


def test_every_shipped_pipeline_reads_images_and_labels_this_way():
    text = '\n'.join(path.read_text() for path in (REPO / 'mm_configs').rglob('*.py'))
    for stock in ("'LoadImageFromFile'", "'LoadAnnotations'", "'semmae.Seeded'",
                  "'mmseg.IoUMetric'"):
        assert f'type={stock}' not in text
    assert np.all([f"type='semmae.{own}'" in text for own in (
        'LoadImage', 'LoadAnnotations', 'SeededOrNext', 'IoUMetric', 'DataCheckHook')])
