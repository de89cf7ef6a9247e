"""A sample is a function of (seed, epoch, index): workers, ranks and restarts change nothing."""
from itertools import chain, islice

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from torch.utils.data import DataLoader, Dataset

from semmae.datasets.part_store import list_images
from semmae.datasets.seeded import Seeded, SeededSampler
from semmae.datasets.transforms import FlipWithParts
from semmae.registry import DATASETS


class Draws(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        import random
        return torch.tensor([i, random.random(), np.random.rand(), torch.rand(()).item()],
                            dtype=torch.float64)


def epochs(workers, num=2, seed=3, **kwargs):
    data = Seeded(Draws())
    sampler = SeededSampler(data, seed=seed, **kwargs)
    loader = DataLoader(data, 2, sampler=sampler, num_workers=workers)
    out = []
    for epoch in range(num):
        sampler.set_epoch(epoch)
        torch.manual_seed(epoch)  # whatever else draws numbers in the main process
        out.append(torch.cat(list(loader)))
    return torch.stack(out)


def test_the_number_of_workers_changes_nothing():
    assert epochs(0).equal(epochs(2))


def test_epochs_seeds_and_images_draw_different_numbers():
    data = epochs(0)
    assert data[..., 1:].unique().numel() == data[..., 1:].numel()
    assert not epochs(0, seed=4).equal(data)


def test_a_sample_can_be_replayed_by_hand():
    data = epochs(0)
    replay = Seeded(Draws(), seed=3)
    for epoch in range(2):
        for row in data[epoch]:
            assert replay[epoch, int(row[0])].equal(row)


def test_an_endless_sampler_resumed_goes_on_as_if_never_stopped():
    def stream(skip, n):
        sampler = SeededSampler(Seeded(Draws()), seed=1, is_infinite=True)
        sampler.skip(skip)
        it = iter(sampler)
        return [next(it) for _ in range(n)]
    assert stream(0, 37)[13:] == stream(13, 24)
    assert {e for e, _ in stream(0, 37)} == {0, 1, 2, 3}


def on_ranks(world, **kwargs):
    """A sampler for each of ``world`` processes, over 12 samples."""
    class Twelve(Draws):
        def __len__(self):
            return 12
    for rank in range(world):
        sampler = SeededSampler(Seeded(Twelve()), seed=1, **kwargs)
        sampler.rank, sampler.world_size = rank, world
        sampler.num_samples, sampler.total_size = 12 // world, 12
        yield sampler


def test_an_epoch_is_entered_after_the_samples_that_were_read_and_once_only():
    (sampler,) = on_ranks(1)
    whole = list(sampler)
    sampler.skip(5)
    assert list(sampler) == whole[5:] and list(sampler) == whole
    sampler.skip(12)
    assert list(sampler) == []


@pytest.mark.parametrize('is_infinite', [False, True])
def test_a_global_batch_is_the_same_however_many_processes_share_it(is_infinite):
    def batches(world, start=0):
        streams = []
        for sampler in on_ranks(world, is_infinite=is_infinite):
            sampler.skip(start // world)
            streams.append(list(islice(sampler, (12 - start) // world)))
        return list(chain(*zip(*streams)))  # row by row, process by process
    assert batches(1) == batches(2) == batches(3)
    assert batches(1)[6:] == batches(2, start=6) == batches(3, start=6)


def test_endless_epochs_hold_every_sample_once_also_on_processes_that_do_not_divide_them():
    streams = [list(islice(sampler, 12)) for sampler in on_ranks(5, is_infinite=True)]
    read = list(chain(*zip(*streams)))
    assert sorted(read) == sorted((e, i) for e in range(5) for i in range(12))


def test_a_small_data_set_is_repeated_with_new_numbers():
    data = Seeded(Draws(), min_length=25)
    assert len(data) == 30
    first, again = data[0, 4], data[0, 14]
    assert first[0] == again[0] == 4 and not first[1:].equal(again[1:])


def test_another_data_set_is_refused():
    with pytest.raises(ValueError, match='wrap it'):
        SeededSampler(Draws(), seed=0)


def pretraining_data(toy, **pack):
    return Seeded(DATASETS.build(dict(
        type='semmae.PartDataset', data_root=str(toy / 'imagenet/train'),
        part_store=str(toy / 'parts/train_8'), grid=8, num_parts=6, pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='semmae.FlipWithParts', prob=0.5),
            dict(type='semmae.PackImage', **pack)])))


def test_mask_noise_is_that_of_seed_epoch_and_image(toy):
    data = pretraining_data(toy)
    again = pretraining_data(toy)
    assert data[1, 4]['noise'].equal(again[1, 4]['noise'])
    assert not data[1, 4]['noise'].equal(data[2, 4]['noise'])
    assert not data[1, 4]['noise'].equal(data[1, 5]['noise'])
    batch = default_collate([data[0, i] for i in range(4)])
    # One number for each of 64 patches and 6 parts; with fewer numbers the first are the same.
    assert batch['noise'].shape == (4, 70) and batch['part_ids'].shape == (4, 64)
    fewer = pretraining_data(toy, num_noise=64)
    assert fewer[1, 4]['noise'].equal(data[1, 4]['noise'][:64])
    assert batch['inputs'].dtype == torch.uint8 and batch['inputs'].shape == (4, 3, 64, 64)


def test_a_flipped_image_has_a_flipped_part_map():
    image, ids = np.arange(64 * 64 * 3).reshape(64, 64, 3), np.arange(64).reshape(8, 8)
    out = FlipWithParts(prob=1.0).transform(dict(img=image, part_ids=ids, foreground=ids + 1))
    assert (out['img'] == image[:, ::-1]).all() and (out['part_ids'] == ids[:, ::-1]).all()
    assert (out['foreground'] == ids[:, ::-1] + 1).all()
    same = FlipWithParts(prob=0.0).transform(dict(img=image, part_ids=ids))
    assert same['part_ids'] is ids


def test_images_and_their_parts_come_from_the_same_row(toy):
    from semmae.datasets.part_store import PartStore
    data = pretraining_data(toy).dataset
    store, names = PartStore(toy / 'parts/train_8'), list_images(toy / 'imagenet/train')
    for i in (0, 7, 15):
        info = data.get_data_info(i)
        assert info['img_path'].endswith(names[i])
        assert (info['part_ids'].reshape(-1) == store[i][0]).all()


def test_looking_up_parts_of_a_labelled_image_finds_its_row(toy):
    from semmae.datasets.part_store import PartStore
    from semmae.datasets.transforms import LoadParts
    root = toy / 'imagenet/train'
    load = LoadParts(store=toy / 'parts/train_8', root=root, grid=8)
    store, names = PartStore(toy / 'parts/train_8'), list_images(root)
    found = load.transform(dict(img_path=str(root / names[9])))
    assert (found['part_ids'].reshape(-1) == store[9][0]).all()
    with pytest.raises(ValueError, match='not among the 16 images below .* of the part store'):
        load.transform(dict(img_path=str(toy / 'imagenet/val' / names[0])))
