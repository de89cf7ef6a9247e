"""From a trained part learner and a folder of images to a part store.

B images of a batch, L patches.
"""
import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from ..checkpoints.load import load_whole
from ..datasets.part_store import PartStore, PartStoreWriter, list_images
from ..datasets.transforms import IN_ONE, kind_of, view_of
from ..files import sha256
from ..models.part_sources import SOURCES
from ..registry import MODELS
from ..training.run import read_config

ROUNDING = .02  # share of the patches that may get another part on other hardware


def tensors_hash(module) -> str:
    """Identifies the weights of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def without_random_steps(cfg):
    """The config's training pipeline without flips and crops: the plain view, at their resolution.

    A crop leaves the view at the side of what it makes, and no more than a part map on its grid.
    Where crops are of the full photo, the view is its centre crop.
    """
    steps = []
    for step in cfg.train_dataloader.dataset.dataset.pipeline:
        kind = kind_of(step)
        if kind == 'LoadRandomResizedCrop':
            side = step['scale']
            steps.append(dict(type='semmae.LoadCenterCrop',
                              size=side if isinstance(side, int) else side[0]))
        elif kind in ('RandomResizedCropWithParts', 'RandomResizedCrop'):
            steps = at_side(steps, step)
            if step.get('grid'):
                steps.append(dict(step, crop_ratio_range=(1., 1.), aspect_ratio_range=(1., 1.)))
        elif kind != 'FlipWithParts':
            steps.append(dict(step, flip_prob=0.) if kind in IN_ONE else step)
    return steps


def at_side(steps, crop):
    """The steps before a random crop, with the same view at the side of what the crop makes."""
    side, view = crop['scale'], view_of(steps)
    if not view:  # of the full photo
        how = {key: crop[key] for key in ('backend', 'interpolation') if key in crop}
        return [*steps, dict(type='mmpretrain.ResizeEdge', scale=side, edge='short', **how),
                dict(type='mmpretrain.CenterCrop', crop_size=side)]
    if any(kind_of(s) in IN_ONE for s in steps):  # the same view at any size
        return [dict(type='semmae.LoadCenterCrop', size=side) if kind_of(s) in IN_ONE else s
                for s in steps]
    larger = next(s['crop_size'] for s in steps if kind_of(s) == 'CenterCrop')
    keys = dict(ResizeEdge='scale', CenterCrop='crop_size')
    steps = [dict(s, **{keys[kind_of(s)]: round(s[keys[kind_of(s)]] * side / larger)})
             if kind_of(s) in keys else s for s in steps]
    if view_of(steps) != view:
        raise ValueError(f'found a view of {larger} pixels ({", ".join(view)}), which is not the '
                         f'same at the {side} pixels of the crops. Choose ResizeEdge and '
                         f'CenterCrop as whole multiples of what they would be at {side}')
    return steps


def to_bytes(scores):
    """(n, L) scores -> uint8 ranks in their image, 0 to 255: no ties up to 256 patches.

    Of equal scores the one at the lower position ranks higher, as in `foreground_ids`.
    """
    ranks = scores.flip(-1).argsort(dim=-1, stable=True).argsort(dim=-1).flip(-1)
    return (ranks * 256 // scores.shape[-1]).to(torch.uint8)


def own_device():
    """The GPU of this process, by its number on the node (torchrun, Slurm); else the CPU."""
    if not torch.cuda.is_available():
        return 'cpu'
    number = int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0)))
    torch.cuda.set_device(number % torch.cuda.device_count())  # Slurm may show it only its own
    return 'cuda'


def load_learner(config, checkpoint, grid=None, source='learned', options=None):
    """The trained part learner in evaluation mode, at ``grid`` patches a side, and its config.

    source: where its parts come from, a key of `SOURCES`. options: overrides of the config.
    """
    cfg = read_config(config, options)
    if cfg.model.type != 'semmae.PartLearner':
        raise ValueError(f'{config} trains a {cfg.model.type}, expected a part learner, for '
                         'example mm_configs/semmae_parts.py')
    if source not in SOURCES:
        raise ValueError(f'no source of parts is called {source!r}, expected one of '
                         f'{", ".join(SOURCES)}')
    cfg.model.encoder.grid = grid or cfg.model.encoder.grid
    if (cfg.model.get('parts') or {}).get('type') != SOURCES[source]:
        cfg.model.parts = dict(type=SOURCES[source])
    model = MODELS.build(cfg.model)
    meta = load_whole(model, checkpoint)
    health = meta.get('part_health') or {}
    model.trained = (meta.get('semmae') or {}).get('identity')
    model.collapsed = health.get('collapsed', []) if source == 'learned' else []
    if model.collapsed:
        print(f'{checkpoint}: PART LEARNING HAD COLLAPSED OR FAILED: {"; ".join(model.collapsed)}',
              file=sys.stderr)
    return model.to(own_device()).eval(), cfg


@torch.no_grad()
def infer(model, batch):
    """(part_ids (B, L) int64, foreground (B, L) scores) of a collated batch of `PackImage`."""
    inputs = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
    return model.segment(inputs)


def precision_of(cfg, source='learned'):
    """On a GPU, learned parts are computed in what they were trained in; all else in float32."""
    optim = cfg.optim_wrapper
    is_mixed = torch.cuda.is_available() and optim.type == 'AmpOptimWrapper'
    return (optim.get('dtype') or 'float16') if is_mixed and source == 'learned' else 'float32'


class Photos(Dataset):
    """``photos[index, name]`` is an image of ``root`` through the pipeline of a config.

    A text instead, saying which file and why, where it cannot be read: an exception would come
    out of a worker as a traceback of the decoder, which knows no file name.
    """

    def __init__(self, root, pipeline):
        self.root, self.transform = Path(root), Compose(pipeline)

    def __getitem__(self, key):
        index, name = key
        try:
            return self.transform(dict(img_path=str(self.root / name), sample_idx=index))
        except Exception as error:
            why = ' '.join(f'{type(error).__name__}: {error}'.split())  # on one line
            return f'{self.root / name} cannot be read: {why}'

    @staticmethod
    def collate(samples):
        return next((s for s in samples if isinstance(s, str)), None) or default_collate(samples)

    def loader(self, batches, num_workers):
        """Batches of samples for an iterable of lists of keys, which is iterated in this process.

        num_workers: processes that decode; None: none below 4 cores a process, else up to 8.
        """
        if num_workers is None:
            mine = getattr(os, 'sched_getaffinity', None)  # not on every system
            cores = len(mine(0)) if mine else os.cpu_count()
            cores //= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
            num_workers = min(8, cores) if cores >= 4 else 0
        return DataLoader(self, batch_sampler=batches, num_workers=num_workers,
                          collate_fn=self.collate, persistent_workers=num_workers > 0,
                          pin_memory=torch.cuda.is_available())


def segment(model, loader, precision):
    """(indices (B,), part ids (B, L), foreground ranks (B, L) uint8), arrays, for each batch.

    Raises ValueError naming the file if an image cannot be read.
    """
    for batch in loader:
        if isinstance(batch, str):
            raise ValueError(f'{batch}. Mend the file and run the same command again: what is '
                             'finished is kept. In the data sets that tools/check_data.py knows, '
                             'its --decode finds all such files')
        with torch.autocast('cuda', getattr(torch, precision), precision != 'float32'):
            ids, foreground = infer(model, batch)
        yield (batch['sample_idx'].numpy(), ids.cpu().numpy(),
               to_bytes(foreground.float()).cpu().numpy())


class Claims:
    """Batches of (index, name), shard by shard, as long as the writer can claim one.

    A batch never reaches beyond its shard: its images, and with them every bit of the store, do not
    depend on which process does what. Iterate again for what was left by others.
    """

    def __init__(self, writer, batch_size):
        self.writer, self.batch_size = writer, batch_size

    def __iter__(self):
        while shard := self.writer.claim():
            for start in range(*shard, self.batch_size):
                chosen = range(start, min(start + self.batch_size, shard[1]))
                yield [(i, self.writer.images[i]) for i in chosen]


def fill(writer, model, loader, precision, pause=.5):
    """Write shards until none is missing. pause: seconds between looks at the others' shards."""
    total = len(writer.images)
    with Progress() as progress:
        bar = progress.add_task(f'parts of {total} images', total=total)
        while todo := writer.todo():
            shard = []
            for index, *parts in segment(model, loader, precision):
                shard.append(parts)
                start, stop = writer.shard_of(int(index[0]))
                if index[-1] == stop - 1:
                    writer.write(start, *(np.concatenate(p) for p in zip(*shard)))
                    todo, shard = writer.todo(), []
                missing = sum(stop - start for start, stop in todo)
                progress.update(bar, completed=total - missing + sum(len(p[0]) for p in shard))
            if writer.todo():
                time.sleep(pause)
        progress.update(bar, completed=total)


def identity(model, cfg, config, checkpoint, source):
    """What a manifest says of the parts' making, besides the images."""
    return dict(
        grid=model.grid, num_parts=model.num_parts_out, source=source, collapsed=model.collapsed,
        parts=dict(cfg.model.parts, foreground=getattr(model.parts, 'foreground', 'own')),
        softmax_over=model.softmax_over, view=view_of(without_random_steps(cfg)),
        config=Path(config).name, learner=model.trained, learner_sha256=sha256(checkpoint),
        encoder_sha256=tensors_hash(model.encoder), precision=precision_of(cfg, source))


def extract_parts(config, checkpoint, images, out, grid=None, source='learned', batch_size=64,
                  num_workers=None, shard_size=1024, options=None):
    """Write the store ``out`` for all images below ``images`` and return it.

    May run in many processes at once, on any number of nodes, without knowing of each other: they
    share the shards, one merges them, all return the finished store (`PartStoreWriter` says what
    the file system has to do for it). Killed and started again, the same bytes come out. A complete
    store of the same inputs is returned, one of others refused. All of it holds for one kind of
    device: float rounding of another moves a patch here and there.
    """
    if min(batch_size, shard_size) < 1:
        raise ValueError(f'found a batch of {batch_size} images and shards of {shard_size}, '
                         'expected at least 1')
    names = list_images(images)
    model, cfg = load_learner(config, checkpoint, grid, source, options)
    made_by = identity(model, cfg, config, checkpoint, source)
    writer = PartStoreWriter(out, names, dict(made_by, batch_size=batch_size), shard_size)
    if writer.is_complete():
        print(f'{out} is complete and made of the same inputs: nothing to do')
        return writer.finish()
    loader = Photos(images, without_random_steps(cfg)).loader(
        Claims(writer, batch_size), num_workers)
    try:
        fill(writer, model, loader, made_by['precision'])
    finally:
        writer.release()
    return writer.finish()


def verify_parts(config, checkpoint, images, out, grid=None, source='learned', num=16,
                 options=None):
    """(patches that get another part now, patches compared) of ``num`` images, evenly spaced.

    Raises ValueError if the store's bytes are not those that were written, if it was made of other
    inputs, or if more patches differ than rounding explains.
    """
    store = PartStore(out)
    store.verify()
    names = list_images(images)
    model, cfg = load_learner(config, checkpoint, grid, source, options)
    made_by = identity(model, cfg, config, checkpoint, source)
    PartStoreWriter(out, names, made_by)  # refuses other inputs, writes nothing
    chosen = sorted(set(np.linspace(0, len(names) - 1, num).round().astype(int).tolist()))
    loader = Photos(images, without_random_steps(cfg)).loader([[(i, names[i]) for i in chosen]], 0)
    (_, ids, _), = segment(model, loader, made_by['precision'])
    different = int((ids != np.stack([store[i][0] for i in chosen])).sum())
    if different > ROUNDING * ids.size:
        raise ValueError(
            f'{out}: {different} of {ids.size} patches of {len(chosen)} images get another part '
            f'than they have in the store, expected at most {ROUNDING:.0%}: the images have '
            f'changed, or the code. {store.command()}')
    return different, ids.size
