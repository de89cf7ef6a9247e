"""Fast transforms show what the steps show that they replace; caches hold what they show."""
import json
from unittest.mock import Mock

import numpy as np
import pytest
import simplejpeg
from mmengine.dataset import Compose
from PIL import Image

from semmae.datasets import image_cache
from semmae.datasets.fast_loading import (
    LoadCenterCrop,
    decode,
    decode_above,
    decode_plain,
    plain_frame,
)
from semmae.datasets.geometry import view_of
from semmae.datasets.image_cache import ImageCache, LoadPacked, pack_images
from semmae.datasets.image_files import DamagedImage
from semmae.registry import TRANSFORMS
from tests.reliability import images

SIZE = 32
LOAD = dict(type='mmpretrain.LoadImageFromFile')
PACK = dict(type='semmae.PackImage')
CROP = [LOAD, dict(type='mmpretrain.RandomResizedCrop', scale=SIZE, crop_ratio_range=(.2, 1.),
                   backend='pillow', interpolation='bicubic'),
        dict(type='mmpretrain.RandomFlip', prob=.5, direction='horizontal')]
VIEW = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=SIZE, edge='short', backend='pillow',
                   interpolation='bicubic'),
        dict(type='mmpretrain.CenterCrop', crop_size=SIZE),
        dict(type='semmae.FlipWithParts', prob=.5)]


def fast_crop(**kwargs):
    return [dict(type='semmae.LoadRandomResizedCrop', scale=SIZE, crop_ratio_range=(.2, 1.),
                 **kwargs)]


def fast_view(**kwargs):
    return [dict(type='semmae.LoadCenterCrop', size=SIZE, flip_prob=.5, **kwargs)]


def photo(height, width, seed=0):
    """(H, W, 3) uint8, unlike its mirror images: noise of many sizes, a few times enlarged."""
    rng = np.random.default_rng(seed)
    layers = [np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC), np.float64) for n in (3, 6, 12, 24)]
    return np.average(layers, axis=0, weights=[8, 4, 2, 1]).astype(np.uint8)


def save(path, height=75, width=100, mode='RGB', seed=0, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(height, width, seed)).convert(mode).save(path, **kwargs)
    return path


def run(steps, path, seed=0):
    """(results before packing, image (3, S, S) as int)."""
    np.random.seed(seed)
    results = Compose([TRANSFORMS.build(s) for s in steps])(
        dict(img_path=str(path), sample_idx=0))
    return results, TRANSFORMS.build(PACK)(dict(results))['inputs'].numpy().astype(int)


def mean_difference(one, other):
    return np.abs(one - other).mean()


@pytest.mark.parametrize('height, width', [(75, 100), (100, 75), (20, 90), (32, 32), (300, 270)])
@pytest.mark.parametrize('fast, slow', [(fast_crop, CROP), (fast_view, VIEW)])
def test_same_seed_same_pixels_up_to_rounding(tmp_path, fast, slow, height, width):
    path = save(tmp_path / 'a.jpg', height, width, quality=95)
    flips = set()
    for seed in range(8):
        (ours, image), (theirs, wanted) = run(fast(), path, seed), run(slow, path, seed)
        assert np.abs(image - wanted).max() <= 2 and mean_difference(image, wanted) < .3
        assert bool(ours['flip']) == bool(theirs['flip'])
        assert ours['ori_shape'] == theirs['ori_shape'] == (height, width)
        assert ours['img_shape'][:2] == theirs['img_shape'][:2] == (SIZE, SIZE)
        assert ours.get('scale_factor') == theirs.get('scale_factor')
        assert ours.get('scale') == theirs.get('scale')
        flips.add(ours['flip'])
    assert flips == {True, False}


def test_as_many_random_numbers_are_drawn_as_by_mmpretrain(tmp_path):
    path, state = save(tmp_path / 'a.jpg'), []
    for steps in (fast_crop(), CROP):
        run(steps, path, 3)
        state.append(np.random.rand())
    assert state[0] == state[1]


@pytest.mark.parametrize('fast', [fast_crop, fast_view])
def test_packing_copies_no_pixels(tmp_path, fast):
    path = save(tmp_path / 'a.jpg')
    for seed in range(4):  # mirrored or not
        results = run(fast(), path, seed)[0]
        packed = TRANSFORMS.build(PACK)(dict(results))['inputs']
        assert np.shares_memory(packed.numpy(), results['img'])


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('sampling', [0, 1, 2])  # colour at every, every 2nd, every 2x2nd pixel
def test_rows_below_the_crop_are_left_out_and_those_above_are_the_same(
        tmp_path, capfd, monkeypatch, mode, sampling):
    path, kept = save(tmp_path / 'a.jpg', 201, 150, mode, subsampling=sampling), []
    content = np.fromfile(path, np.uint8)
    whole, frame = decode(content, path), plain_frame(content)
    assert frame[1:] == (201, 150)
    decoder = Mock(wraps=simplejpeg.decode_jpeg)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', decoder)
    for bottom in (*range(1, 201, 7), 200, 201):
        rows = decode_above(content.copy(), path, bottom, frame)
        assert len(rows) >= bottom and (rows[:bottom] == whole[:bottom]).all()
        kept.append(len(rows))
    assert kept[0] == 16 and kept[-1] == 201
    assert decoder.call_count == len(kept)  # once each: not again where all rows are needed
    assert capfd.readouterr().err == ''  # where libjpeg says what it finds odd


@pytest.mark.parametrize('options', [
    dict(progressive=True), dict(restart_marker_blocks=2), dict(exif=b'Exif\0\0'),
    dict(mode='CMYK')])
def test_other_jpegs_are_decoded_in_full(tmp_path, options):
    content = np.fromfile(save(tmp_path / 'a.jpg', **options), np.uint8)
    assert plain_frame(content) is None
    plain = np.fromfile(save(tmp_path / 'b.jpg'), np.uint8)
    assert plain_frame(plain) and not plain_frame(plain[:-1]) and not plain_frame(plain[:90])


def test_a_jpeg_that_cannot_be_shortened_is_decoded_in_full(tmp_path):
    path = save(tmp_path / 'a.jpg', 300, 100)
    content = np.fromfile(path, np.uint8)
    frame, whole = plain_frame(content), decode(content, path)
    at, height, width = frame
    assert (decode_above(content, path, 20, (at, height, width + 1)) == whole).all()


@pytest.mark.parametrize('mode, name', [
    ('L', 'a.jpg'), ('CMYK', 'a.jpg'), ('P', 'a.png'), ('RGBA', 'a.png'), ('LA', 'a.png'),
    ('1', 'a.png'), ('I;16', 'a.png'), ('RGB', 'a.webp'), ('RGB', 'a.bmp'), ('RGB', 'a.tif')])
def test_all_colour_modes_look_as_mmpretrain_loads_them(tmp_path, mode, name):
    path = tmp_path / name
    if mode == 'I;16':
        Image.fromarray(photo(75, 100)[..., 0].astype(np.uint16) * 257).save(path)
    else:
        save(path, mode=mode)
    for fast, slow in ((fast_crop, CROP), (fast_view, VIEW)):
        image, wanted = run(fast(), path)[1], run(slow, path)[1]
        # Hard edges of black and white: both kernels round an overshoot in between.
        assert mean_difference(image, wanted) < .5


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_turns_an_image_as_mmpretrain_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / 'a.jpg', 75, 100, exif=exif)
    for fast, slow in ((fast_crop, CROP), (fast_view, VIEW)):
        (ours, image), (theirs, wanted) = run(fast(), path), run(slow, path)
        assert ours['ori_shape'] == theirs['ori_shape']
        assert mean_difference(image, wanted) < .3


@pytest.mark.parametrize('content, reason', [
    (lambda whole: whole[:len(whole) // 2], 'decoded: .*ends before its end marker'),
    (lambda whole: b'', 'read: .*0 bytes'),
    (lambda whole: b'<html>', 'decoded: .*not an image'),
    (lambda whole: of_other_size(whole, 15000, 14000), 'decoded: Image size .210000000 pixels')])
def test_a_broken_file_is_named_with_the_reason(tmp_path, content, reason):
    path = save(tmp_path / 'broken.jpg')
    path.write_bytes(content(path.read_bytes()))
    for steps in (fast_crop(), fast_view()):
        with pytest.raises(DamagedImage, match=f'broken.jpg cannot be {reason}'):
            run(steps, path)


def of_other_size(content, height, width):
    """A JPEG whose header tells this size."""
    at = plain_frame(np.frombuffer(content, np.uint8))[0]
    return content[:at] + height.to_bytes(2, 'big') + width.to_bytes(2, 'big') + content[at + 4:]


@pytest.mark.parametrize('name', images.bad_images())
def test_what_the_other_loader_refuses_is_a_damaged_image_here_too(tmp_path, name):
    images.place(tmp_path, name, images.bad_images()[name])
    for steps in (fast_crop(), fast_view(), [dict(type='semmae.LoadImage')]):
        with pytest.raises(DamagedImage, match=f'{name} cannot be '):
            run(steps, tmp_path / name)


def test_what_the_other_loader_reads_has_the_same_pixels_here(tmp_path):
    step = TRANSFORMS.build(dict(type='semmae.LoadImage'))
    for name, content in images.good_images().items():
        path = images.place(tmp_path, name, content)
        bgr = step(dict(img_path=path))['img']
        assert (decode(np.fromfile(path, np.uint8), path) == bgr).all(), name


def test_what_libjpeg_finds_fault_with_is_judged_as_by_the_other_loader(tmp_path):
    step, rng = TRANSFORMS.build(dict(type='semmae.LoadImage')), np.random.default_rng(0)
    whole = np.fromfile(save(tmp_path / 'a.jpg'), np.uint8)
    path, seen = tmp_path / 'b.jpg', set()
    for _ in range(60):
        content, at = whole.copy(), rng.integers(len(whole) // 2, len(whole) - 20)
        content[at:at + 4] = rng.integers(0, 256, 4)
        assert plain_frame(content)
        content.tofile(path)
        found = []
        for read in (lambda: step(dict(img_path=path))['img'],
                     lambda: decode(np.fromfile(path, np.uint8), path)):
            try:
                found.append(read().tobytes())
            except DamagedImage as error:
                found.append(str(error))
        assert found[0] == found[1]
        seen.add((isinstance(found[0], str), decode_plain(content) is None))
    assert (False, True) in seen  # passed over, and not by the strict decoder


def test_crops_of_the_full_photo_refuse_part_maps(tmp_path):
    step = TRANSFORMS.build(fast_crop()[0])
    with pytest.raises(ValueError, match='RandomResizedCropWithParts'):
        step(dict(img_path=str(save(tmp_path / 'a.jpg')), part_ids=np.zeros((4, 4), np.uint8)))


# Caches

@pytest.fixture
def folder(tmp_path):
    for i in range(7):
        save(tmp_path / f'images/{i % 2}/{i}.jpg', 60 + 50 * i, 90, seed=i)
    return tmp_path / 'images'


def files(root):
    return {p.name: p.read_bytes() for p in root.iterdir()}


def test_a_packed_image_is_the_image_and_flips_like_it(folder, tmp_path):
    cache = pack_images(folder, tmp_path / 'cache', SIZE, shard_size=3)
    packed = [dict(type='semmae.LoadPacked', cache=str(cache.root), root=str(folder), size=SIZE,
                   flip_prob=.5)]
    cache.verify()
    for name in cache.images():
        for seed in range(3):
            ours, theirs = (run(s, folder / name, seed)[1] for s in (packed, fast_view()))
            assert (ours == theirs).all()
    with pytest.raises(ValueError, match='not among the 7 images'):
        run(packed, tmp_path / 'other.jpg')


def test_an_interrupted_build_is_unreadable_and_ends_in_the_same_bytes(
        folder, tmp_path, monkeypatch):
    whole = pack_images(folder, tmp_path / 'whole', SIZE, shard_size=2)
    calls = []

    class Dying(LoadCenterCrop):
        def read(self, path):
            calls.append(path)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return super().read(path)

    monkeypatch.setattr(image_cache, 'LoadCenterCrop', Dying)
    with pytest.raises(KeyboardInterrupt):
        pack_images(folder, tmp_path / 'cache', SIZE, shard_size=2)
    with pytest.raises(FileNotFoundError, match='an unfinished image cache .*pack_images.py'):
        ImageCache(tmp_path / 'cache')
    with pytest.raises(ValueError, match='size 32, expected 16'):
        pack_images(folder, tmp_path / 'cache', 16, shard_size=2)
    pack_images(folder, tmp_path / 'cache', SIZE, shard_size=2)
    assert len(calls) == 6 + 3  # 4 of 7 images were on disk
    assert files(tmp_path / 'cache') == files(whole.root)


def test_a_cache_of_something_else_is_refused(folder, tmp_path):
    out = pack_images(folder, tmp_path / 'cache', SIZE).root
    with pytest.raises(ValueError, match='size 32, expected 64'):
        LoadPacked(out, folder, 64)
    save(folder / 'new.jpg')
    for make in (lambda: LoadPacked(out, folder, SIZE), lambda: pack_images(folder, out, SIZE)):
        with pytest.raises(ValueError, match='does not fit: .*images_sha256.*pack_images.py'):
            make()


def test_verify_names_the_images_that_changed(folder, tmp_path):
    cache = pack_images(folder, tmp_path / 'cache', SIZE, shard_size=3)
    with open(cache.root / 'images.u8', 'r+b') as f:
        f.seek(4 * 3 * SIZE ** 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ValueError, match='images 3 to 5'):
        ImageCache(cache.root).verify()


def test_a_short_file_and_another_format_are_refused(folder, tmp_path):
    out = pack_images(folder, tmp_path / 'cache', SIZE).root
    with open(out / 'images.u8', 'r+b') as f:
        f.truncate(100)
    with pytest.raises(ValueError, match='has 100 bytes'):
        ImageCache(out)
    manifest = json.loads((out / 'manifest.json').read_text())
    for text, reason in ((json.dumps(dict(manifest, format=99)), 'format 99'),
                         (json.dumps(dict(manifest, count=6)), 'was changed after it was written'),
                         ('{', 'manifest.json is damaged')):
        (out / 'manifest.json').write_text(text)
        with pytest.raises(ValueError, match=reason):
            ImageCache(out)


def test_a_part_store_of_the_replaced_steps_fits_and_parts_are_mirrored_with_the_image(tmp_path):
    fast = fast_view()
    assert view_of([*fast, PACK]) == view_of([*VIEW, PACK])
    path, maps = save(tmp_path / 'a.png'), np.arange(16).reshape(4, 4)
    step = TRANSFORMS.build(dict(fast[0], flip_prob=1.))
    plain = TRANSFORMS.build(dict(fast[0], flip_prob=0.))
    mirrored = step(dict(img_path=str(path), part_ids=maps))
    still = plain(dict(img_path=str(path), part_ids=maps))
    assert (mirrored['part_ids'] == maps[:, ::-1]).all() and (still['part_ids'] == maps).all()
    assert (mirrored['img'] == still['img'][:, ::-1]).all()
    crop = dict(type='semmae.RandomResizedCropWithParts', scale=SIZE)
    assert view_of([*fast, crop, PACK]) == view_of([*fast, PACK])
