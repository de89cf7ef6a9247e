"""python -m semmae.datasets.toy --out data/toy

Renders objects made of parts and writes them in the layouts of ImageNet, CUB-200-2011 and ADE20K,
with true part labels, so that the real readers run without real data sets.

A class is a relation of parts: head high or low; legs or wheels; a tail at the rear or a wing on
the back; for CUB also the saddle at the front or rear. Shapes, colours, rotation, scale, shift and
flip are independent of the class. Each image is a function of (seed, split, index).
"""
import argparse
import colorsys
import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..files import write_atomically
from ..progress_bar import track
from .layouts import CUB_LISTS

GENERATOR = 1  # increase it when the same arguments give other bytes
PARTS = ('background', 'body', 'head', 'limbs', 'tail or wing', 'saddle')
ADE_CLASSES = ('background', 'body', 'head', 'wheel', 'leg', 'tail', 'wing', 'saddle')
PIECES = ('body', 'head', 'front limb', 'rear limb', 'tail', 'wing', 'saddle')   # CUB landmarks
PIECE_TO_PART = np.array([0, 1, 2, 3, 3, 4, 4, 5], np.uint8)
RELATIONS = (('high', 'low'), ('legs', 'wheels'), ('tail', 'wing'), ('front', 'rear'))
CLASSES = tuple('_'.join(words) for words in product(*RELATIONS[:3]))
FINE_CLASSES = tuple('_'.join(words).title() for words in product(*RELATIONS))
HUES = (.08, .0, .6, .33, .8)  # typical hues of body, head, limbs, tail or wing, saddle
MARKER = '.semmae_toy'  # written first: the folders beside it may be replaced


class Split(NamedTuple):
    """The images of one folder; even numbers are training sets, odd ones test sets."""

    number: int
    set: str
    name: str


SPLITS = tuple(Split(number, *names) for number, names in enumerate((
    ('imagenet', 'train'), ('imagenet', 'val'), ('CUB_200_2011', 'train'), ('CUB_200_2011', 'test'),
    ('ADEChallengeData2016', 'training'), ('ADEChallengeData2016', 'validation'))))


class Arguments(NamedTuple):
    """The arguments of a set; ``num_`` are the numbers of (training, test) images."""

    seed: int = 0
    image_size: int = 64
    num_imagenet: tuple[int, int] = (3000, 1000)
    num_cub: tuple[int, int] = (800, 400)
    num_ade: tuple[int, int] = (600, 150)

    def count(self, split: Split) -> int:
        """The number of images of a split."""
        return (self.num_imagenet, self.num_cub, self.num_ade)[split.number // 2][split.number % 2]

    def check(self):
        """ValueError for arguments that give no usable set."""
        for name, least in dict(num_imagenet=8, num_cub=16, num_ade=1).items():
            numbers = getattr(self, name)
            if len(numbers) != 2 or min(numbers) < least:
                raise ValueError(f'{name}={numbers}, expected two numbers (training, test) of at '
                                 f'least {least}, so that every class has an image')
        if self.image_size < 32 or self.seed < 0:
            raise ValueError(f'image_size={self.image_size}, seed={self.seed}: expected at least '
                             '32 pixels, so that parts can be seen, and a seed >= 0')


def oval(x, y, half_width, half_height, power=2., taper=0., points=28):
    """(points, 2) outline: an ellipse for power 2, boxy above, wider to the right by ``taper``."""
    t = np.arange(points) * (2 * math.pi / points)
    c, s = np.cos(t), np.sin(t)
    u = np.sign(c) * np.abs(c) ** (2 / power)
    v = np.sign(s) * np.abs(s) ** (2 / power)
    return np.stack([x + half_width * u, y + half_height * v * (1 + taper * u)], 1)


def outlines(rng, is_low, has_wheels, has_wing, saddle_rear):
    """[(piece id, (n, 2) outline)] from back to front; facing right, y down, about 1 wide."""
    r = rng.uniform
    a, b = r(.29, .34), r(.18, .22)    # half the length and height of the body
    size = r(.13, .165)
    head = oval(a + r(.02, .07), (r(.06, .12) if is_low else -b - r(.08, .13)),
                size * r(.9, 1.2), size * r(.85, 1.1), power=r(1.7, 4.), taper=r(-.25, .25))
    limbs = []
    for piece, x in ((3, .58 * a + r(-.03, .03)), (4, -.58 * a + r(-.03, .03))):
        radius, w, lean = r(.12, .145), r(.08, .10), r(-.06, .06)
        wheel = oval(x, b + r(.05, .08), radius, radius)
        leg = np.array([[x - w, .3 * b], [x + w, .3 * b], [x + w + lean, b + .24],
                        [x - w + lean, b + .24]])
        limbs.append((piece, wheel if has_wheels else leg))
    saddle = oval((-.55 if saddle_rear else .5) * a, -.62 * b, r(.10, .13), r(.085, .11),
                  power=r(2., 4.))
    if has_wing:
        x, tip = r(-.03, .05), r(-.30, -.18)
        appendage = 6, np.array([[x + .13, -.6 * b], [x + .09, -b - .15], [tip + .12, -b - .27],
                                 [tip, -b - .28], [tip + .04, -b - .12], [x - .13, -.6 * b]])
    else:
        up = r(-.05, .12)
        appendage = 5, np.array([
            [-.7 * a, -.6 * b], [-a - .08, -.8 * b - up], [-a - .23, -b - up - .06],
            [-a - .29, -.3 * b - up], [-a - .12, .4 * b - up], [-.7 * a, .6 * b]])
    trunk = [appendage, (1, oval(0, 0, a, b, power=r(2., 4.5), taper=r(-.2, .2)))]
    return [*(trunk + limbs if has_wheels else limbs + trunk), (2, head), (7, saddle)]


def bright(rng, hue, saturation, value):
    """(3,) RGB of a hue with saturation and value drawn from two ranges."""
    return np.array(colorsys.hsv_to_rgb(hue % 1., rng.uniform(*saturation), rng.uniform(*value)),
                    np.float32)


def gradient(rng, height, width):
    """(height, width, 3) weak background: a colour that changes smoothly, and slight noise."""
    base = bright(rng, rng.uniform(), (.0, .4), (.25, .9))
    corners = base + rng.uniform(-.12, .12, (2, 2, 3)).astype(np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[:, None]
    top, bottom = (row[0] * (1 - x) + row[1] * x for row in corners)
    image = top * (1 - y) + bottom * y
    image += rng.standard_normal((height, width, 3), np.float32) * np.float32(.012)
    return image


def paint(rng, part, u, v):
    """(H, W, 3) colour and texture of a part over (H, W) coordinates in 64ths of the image."""
    typical = HUES[part - 1] + rng.uniform(-.04, .04)
    colour = bright(rng, typical if rng.uniform() < .5 else rng.uniform(), (.3, .9), (.45, 1.))
    shade, period = np.float32(rng.uniform(.5, .8)), np.float32(rng.uniform(4., 6.))
    if part == 1:  # body: plain
        is_dark = np.zeros(u.shape, bool)
    elif part == 5:  # saddle: checks
        is_dark = (np.floor(u * (2 / period)) + np.floor(v * (2 / period))) % 2 < 1
    else:  # stripes in three directions
        is_dark = (u, v, (u + v) * np.float32(.7071))[part - 2] / period % 1 < .5
    return np.where(is_dark[..., None], shade * colour, colour)


def render(rng, relation, height, width):
    """(image (H, W, 3) uint8 RGB, pieces (H, W) uint8: 0 background, i + 1 = PIECES[i]).

    relation: four 0/1 values, one for each row of RELATIONS.
    """
    shapes = outlines(rng, *relation)
    angle, flip = math.radians(rng.uniform(-15, 15)), rng.choice([-1., 1.])
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    points = [p * [flip, 1.] @ [[cos, sin], [-sin, cos]] for _, p in shapes]
    middle = sum(f(np.concatenate(points), 0) for f in (np.min, np.max)) / 2
    # Scaled by area, so that wide and tall objects cover the same share; some leave the frame.
    area = sum(cv2.contourArea(p.astype(np.float32)) for p in points)
    scale = math.sqrt(height * width / area) * rng.uniform(.66, .90)
    shift = rng.uniform(-.09, .09, 2) * min(height, width) + [(width - 1) / 2, (height - 1) / 2]

    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(64 / min(height, width))
    u, v = x * cos + y * sin + np.float32(64), y * cos - x * sin + np.float32(64)
    paints = [None] + [paint(rng, part, u, v) for part in range(1, 6)]
    image = gradient(rng, height, width)
    pieces = np.zeros((height, width), np.uint8)
    for (piece, _), outline in zip(shapes, points):
        cover = np.zeros_like(pieces)
        at = ((outline - middle) * scale + shift) * 16  # fillPoly reads 4 fractional bits
        cv2.fillPoly(cover, [np.round(at).astype(np.int32)], 255, cv2.LINE_AA, 4)
        left, top, w, h = cv2.boundingRect(cover)
        box = np.s_[top:top + h, left:left + w]
        alpha = (cover[box] * np.float32(1 / 255))[..., None]
        image[box] += alpha * (paints[PIECE_TO_PART[piece]][box] - image[box])
        pieces[box][cover[box] >= 128] = piece
    return (np.clip(image, 0, 1) * 255 + .5).astype(np.uint8), pieces


def draw(seed, split, index, image_size=64):
    """(image, pieces, label among FINE_CLASSES) of one image of ``split``, one of SPLITS."""
    rng = np.random.default_rng((seed, split.number, index))
    extra = int(rng.integers(16))
    height = width = image_size
    label = index % 16
    if split.set == 'imagenet':  # balanced in its 8 classes; the saddle is independent of them
        label = 2 * (index % 8) + extra % 2
    elif split.set == 'CUB_200_2011':  # mixed sizes, a little larger than the crop
        height += image_size * (1 + extra % 4) // 24
        width += image_size // 8
        height, width = (height, width) if extra < 8 else (width, height)
    image, pieces = render(rng, [label >> bit & 1 for bit in (3, 2, 1, 0)], height, width)
    return image, pieces, label


def ade_labels(pieces, label):
    """(H, W) uint8 as ADE20K stores them: 0 ignored (a line around the object), 1.. classes."""
    limb = 4 if label >> 2 & 1 else 5
    labels = np.array([1, 2, 3, limb, limb, 6, 7, 8], np.uint8)[pieces]
    thing = (pieces > 0).astype(np.uint8)
    labels[(cv2.dilate(thing, np.ones((3, 3), np.uint8)) > 0) & (thing == 0)] = 0
    return labels


def paths_of(split, index, arguments):
    """(image, label map or None) of one sample, relative to the root."""
    if split.set == 'imagenet':
        name = f'{CLASSES[index % 8]}/toy_{split.name}_{index:06d}'
        return f'imagenet/{split.name}/{name}.JPEG', f'imagenet/part_labels/{split.name}/{name}.png'
    if split.set == 'CUB_200_2011':
        number = index + split.number % 2 * arguments.num_cub[0]
        name = FINE_CLASSES[index % 16]
        return f'{split.set}/images/{index % 16 + 1:03d}.{name}/{name}_{number:05d}.jpg', None
    name = f"{split.name}/ADE_{('train', 'val')[split.number % 2]}_{index + 1:08d}"
    return f'{split.set}/images/{name}.jpg', f'{split.set}/annotations/{name}.png'


def write_chunk(job):
    """(sha256 of each image and label file, CUB rows) of the samples of one job."""
    root, arguments, split, indices = job
    hashes, rows = [], []
    for index in indices:
        image, pieces, label = draw(arguments.seed, split, index, arguments.image_size)
        image_path, label_path = paths_of(split, index, arguments)
        jpeg = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        labels = PIECE_TO_PART[pieces] if split.set == 'imagenet' else ade_labels(pieces, label)
        for path, data in ((image_path, jpeg), (label_path, cv2.imencode('.png', labels)[1])):
            if path is not None:
                Path(root, path).write_bytes(data.tobytes())
                hashes.append(hashlib.sha256(data.tobytes()).hexdigest())
        if split.set == 'CUB_200_2011':
            rows.append((image_path.split('/', 2)[2], label + 1, int(split.name == 'train'),
                         *annotate(pieces)))
    return hashes, rows


def annotate(pieces):
    """(box x y w h, [(x, y, visible)] of each of PIECES): centroids of visible pixels."""
    ys, xs = np.nonzero(pieces)
    box = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    seen = pieces[ys, xs]
    count, x, y = (np.bincount(seen, w, minlength=8)[1:].tolist() for w in (None, xs, ys))
    return [float(b) for b in box], [
        (round(i / n, 1), round(j / n, 1), 1) if n else (.0, .0, 0) for n, i, j in zip(count, x, y)]


def write_cub_lists(folder, rows):
    """The text files of CUB-200-2011. Images are numbered by class, then by name, from 1."""
    rows = list(enumerate(sorted(rows, key=lambda row: (row[1], row[0])), 1))
    tables = ([(i, row[0]) for i, row in rows], [(i, row[1]) for i, row in rows],
              [(i, row[2]) for i, row in rows], [(i, *row[3]) for i, row in rows],
              [(i, f'{i:03d}.{name}') for i, name in enumerate(FINE_CLASSES, 1)],
              list(enumerate(PIECES, 1)),
              [(i, p, *place) for i, row in rows for p, place in enumerate(row[4], 1)])
    for name, table in zip(CUB_LISTS, tables):
        text = ''.join(' '.join(map(str, line)) + '\n' for line in table)
        (folder / name).write_text(text, encoding='utf-8')


def file_lists(arguments):
    """{split: relative paths of all its files, in the order in which they are hashed}."""
    return {s: [path for index in range(arguments.count(s))
                for path in paths_of(s, index, arguments) if path] for s in SPLITS}


def sha256(lines) -> str:
    """Hex digest of lines of text."""
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def read_record(root):
    """The content of toy.json if the set below ``root`` is complete, else None."""
    root = Path(root)
    try:
        record = json.loads((root / 'toy.json').read_text(encoding='utf-8'))
        names = [split['names_sha256'] for split in record['files'].values()]
        lists = file_lists(Arguments(**record['arguments']))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    files = [f'CUB_200_2011/{name}' for name in CUB_LISTS] + sum(lists.values(), [])
    is_whole = names == list(map(sha256, lists.values()))
    return record if is_whole and all((root / f).is_file() for f in files) else None


def prepare(root, wanted):
    """Whether ``root`` has a complete set of these arguments; if not, clears and marks it."""
    folders = [root / name for name in sorted({s.set for s in SPLITS})]
    record = read_record(root)
    if record is not None:
        found = {k: record.get(k) for k in wanted}
        if found == wanted:
            return True
        raise ValueError(f'{root} holds a toy set made with {found}, expected {wanted}. Delete '
                         f'it (rm -r {root}), use its arguments, or choose another --out')
    full = [str(f) for f in folders if f.is_dir() and any(f.iterdir())]
    if full and not (root / MARKER).exists():
        raise ValueError(f"this tool did not write {', '.join(full)}: expected a folder without "
                         'them. Choose another --out')
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text('semmae.datasets.toy writes and replaces the folders here.\n')
    (root / 'toy.json').unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return False


def write_toy(root, progress=True, workers=None, **arguments):
    """Path of the folder with ``imagenet``, ``CUB_200_2011``, ``ADEChallengeData2016``, toy.json.

    arguments: those of `Arguments`. A complete set of the same arguments is kept. An incomplete one
    is replaced. One of other arguments is refused. The bytes do not depend on ``workers``
    (None: up to 2).
    """
    root, wanted = Path(root), Arguments(**arguments)
    wanted.check()
    made_with = dict(generator=GENERATOR, arguments=json.loads(json.dumps(wanted._asdict())))
    if prepare(root, made_with):
        return root
    lists = file_lists(wanted)
    for folder in {(root / f).parent for files in lists.values() for f in files}:
        folder.mkdir(parents=True, exist_ok=True)
    (root / 'CUB_200_2011/parts').mkdir()
    jobs = [(root, wanted, s, range(i, min(i + 100, wanted.count(s))))
            for s in SPLITS for i in range(0, wanted.count(s), 100)]
    hashes: list[list[str]] = [[] for _ in SPLITS]
    rows: list[tuple] = []
    workers = min(2, os.cpu_count() or 1, len(jobs) // 4) if workers is None else workers
    with contextlib.ExitStack() as pool:
        run = pool.enter_context(ProcessPoolExecutor(workers)).map if workers > 1 else map
        results = zip(run(write_chunk, jobs), jobs)
        if progress:
            results = track(results, 'drawing', sum(len(job[3]) for job in jobs),
                            size=lambda result: len(result[1][3]))
        for (new_hashes, new_rows), job in results:
            hashes[job[2].number] += new_hashes
            rows += new_rows
    write_cub_lists(root / 'CUB_200_2011', rows)
    files = {f'{s.set}/{s.name}': dict(
        count=wanted.count(s), names_sha256=sha256(lists[s]),
        bytes_sha256=sha256(hashes[s.number])) for s in SPLITS}
    text = json.dumps(dict(made_with, files=files), indent=2) + '\n'
    write_atomically(root / 'toy.json', lambda f: f.write(text.encode()))
    return root


def arguments(prog='python -m semmae.datasets.toy'):
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    for name, default in Arguments()._asdict().items():
        flag = f'--{name.replace("_", "-")}'
        if isinstance(default, tuple):
            parser.add_argument(flag, type=int, default=default, nargs=2, metavar=('TRAIN', 'TEST'))
        else:
            parser.add_argument(flag, type=int, default=default)
    return parser


def training_images(out, **counts) -> dict:
    """{folder: training images} of the set that ``write_toy(out, **counts)`` makes."""
    made = vars(arguments().parse_args(['--out', str(out)])) | counts
    numbers = {'imagenet/train': made['num_imagenet'][0], 'imagenet/val': made['num_imagenet'][1],
               'CUB_200_2011': made['num_cub'][0], 'ADEChallengeData2016': made['num_ade'][0]}
    return {str(Path(out) / folder): number for folder, number in numbers.items()}


def main(argv=None, prog='python -m semmae.datasets.toy'):
    """Writes the set that the command line asks for; returns the exit code."""
    args = vars(arguments(prog).parse_args(argv))
    try:
        root = write_toy(args.pop('out'), **args)
    except (ValueError, OSError) as error:
        print(f'toy: error: {error}', file=sys.stderr)
        return 2
    print(f'{root}: complete')
    return 0


if __name__ == '__main__':
    sys.exit(main())
