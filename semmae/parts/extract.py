"""Extracts the parts of images, as arrays or to a part store.

B images of a batch, N in all, L patches. A source (`learner.LearnerSource`,
`encoder.BackboneSource`, `true_parts.LabelSource`) has a method
``open(images)``, which returns the model, the `Photos` and the manifest's fields.
"""
import time
from typing import NamedTuple

import numpy as np
import torch

from ..datasets.part_store import PartStore, PartStoreWriter, list_images
from ..datasets.photos import images_of
from ..datasets.sharded import Claims
from ..progress_bar import Bar
from .learner import own_device

NUM_VERIFIED = 16  # images
AGAIN = (' and run the same command again: finished shards are kept. For the data sets of '
         'tools/check_data.py, its --decode finds all such files')
ROUNDING = .02  # share of the patches that may get another part on other hardware


def to_bytes(scores):
    """(n, L) scores -> uint8 ranks in their image, 0 to 255: no ties up to 256 patches.

    Of equal scores the one at the lower position ranks higher, as in `foreground_ids`.
    """
    ranks = scores.flip(-1).argsort(dim=-1, stable=True).argsort(dim=-1).flip(-1)
    return (ranks * 256 // scores.shape[-1]).to(torch.uint8)


@torch.no_grad()
def infer(model, batch):
    """(part_ids (B, L) int64, foreground (B, L) scores) of a collated batch of `PackImage`."""
    return model.segment(model.data_preprocessor(dict(inputs=batch['inputs']))['inputs'])


def segment(model, loader, precision, again=''):
    """(indices (B,), part ids (B, L), foreground ranks (B, L) uint8), arrays, for each batch.

    Raises ValueError with the file's name, and ``again``, if an image cannot be read.
    """
    for batch in loader:
        if isinstance(batch, str):
            raise ValueError(f'{batch}. Repair the file{again}')
        with torch.autocast(own_device(), getattr(torch, precision), precision != 'float32'):
            ids, foreground = infer(model, batch)
        yield (batch['sample_idx'].numpy(), ids.cpu().numpy(),
               to_bytes(foreground.float()).cpu().numpy())


def fill(writer, model, loader, precision):
    """Write shards until none is missing; waits for the shards of other processes."""
    done = writer.count_written()
    with Bar('parts', len(writer.images), done=done) as bar:
        while writer.todo():
            shard: list = []
            for index, *parts in segment(model, loader, precision, AGAIN):
                shard.append(parts)
                start, stop = writer.shard_of(int(index[0]))
                if index[-1] == stop - 1:
                    writer.write(start, *(np.concatenate(p) for p in zip(*shard)))
                    done, shard = writer.count_written(), []
                bar.to(done + sum(len(p[0]) for p in shard))
            if writer.todo():
                time.sleep(.5)


def extract_parts(source, images, out, batch_size=64, num_workers=None, shard_size=1024):
    """Write the store ``out`` for all images below ``images`` and return it.

    May run in many unconnected processes at once, on any number of nodes: they share the shards,
    one merges them, and all return the finished store (`PartStoreWriter`: requirements on the file
    system). If it is killed and started again, the store is bit-identical. A complete store of the
    same inputs is returned; one of other inputs is refused. All of this holds for one kind of
    device: another kind rounds differently, which gives some patches another part.
    """
    if min(batch_size, shard_size) < 1:
        raise ValueError(f'got a batch of {batch_size} images and shards of {shard_size}, '
                         'expected at least 1')
    names = list_images(images)
    model, photos, made_by = source.open(images)
    writer = PartStoreWriter(out, names, dict(made_by, batch_size=batch_size), shard_size)
    if writer.is_complete():
        print(f'{out} is complete and made of the same inputs: nothing to do')
        return writer.finish()
    loader = photos.loader(Claims(writer, batch_size), num_workers)
    try:
        fill(writer, model, loader, made_by.get('precision', 'float32'))
    finally:
        writer.release()
    return writer.finish()


def verify_parts(learner, images, out):
    """(patches that now get another part, patches compared) of evenly spaced images.

    Raises ValueError if the store's bytes are not those that were written, if it was made of other
    inputs, or if more patches differ than rounding explains.
    """
    store = PartStore(out)
    store.verify()
    names = list_images(images)
    model, photos, made_by = learner.open(images)
    PartStoreWriter(out, names, made_by)  # refuses other inputs, writes nothing
    chosen = np.unique(np.linspace(0, len(names) - 1, NUM_VERIFIED).round().astype(int)).tolist()
    loader = photos.loader([[(i, names[i]) for i in chosen]], 0)
    (_, ids, _), = segment(model, loader, made_by['precision'])
    different = int((ids != np.stack([store[i][0] for i in chosen])).sum())
    if different > ROUNDING * ids.size:
        raise ValueError(
            f'{out}: {different} of {ids.size} patches of {len(chosen)} images get another part '
            f'than in the store, expected at most {ROUNDING:.0%}: the images have '
            f'changed, or the code. {store.command()}')
    return different, ids.size


class Parts(NamedTuple):
    """Parts of N images, on a grid of h x w patches.

    names: relative paths, or the files as given. ids: (N, h, w) int64.
    foreground: (N, h, w) uint8, the rank in the image, larger is more object.
    images: (N, S, S, 3) uint8 RGB, the views that were read.
    """

    names: list
    ids: np.ndarray
    foreground: np.ndarray
    images: np.ndarray


def parts_of(source, images, batch_size=32) -> Parts:
    """`Parts` of a folder of images, of a file or of a list of files.

    Raises ValueError for an image that cannot be read, FileNotFoundError for a folder without any.
    """
    root, names = images_of(images)
    model, photos, made_by = source.open(root)
    keys, views = list(enumerate(names)), []

    def seen(loader):
        for batch in loader:
            if not isinstance(batch, str):
                views.append(batch['inputs'].permute(0, 2, 3, 1).numpy())
            yield batch

    loader = photos.loader([keys[i:i + batch_size] for i in range(0, len(keys), batch_size)], 0)
    _, ids, ranks = (np.concatenate(parts) for parts in zip(
        *segment(model, seen(loader), made_by['precision'])))
    shape = len(names), model.grid, model.grid
    return Parts(names, ids.reshape(shape), ranks.reshape(shape), np.concatenate(views))
