"""From a trained part learner and a folder of images to a part store."""
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from ..datasets.part_dataset import PartDataset
from ..datasets.part_store import PartStoreWriter, list_images
from ..datasets.transforms import view_of
from ..files import sha256
from ..registry import MODELS
from .checkpoint import load_whole


def tensors_hash(module) -> str:
    """Identifies the weights of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def without_flips(cfg):
    """The config's training pipeline without its random steps: what pre-training will see."""
    return [step for step in cfg.train_dataloader.dataset.dataset.pipeline
            if not step['type'].endswith('FlipWithParts')]


def to_bytes(scores):
    """(n, L) scores -> uint8 ranks in their image, 0 to 255: no ties up to 256 patches."""
    ranks = scores.argsort(dim=-1, stable=True).argsort(dim=-1)
    return (ranks * 256 // scores.shape[-1]).to(torch.uint8)


def load_learner(config, checkpoint, grid=None):
    """The trained part learner in evaluation mode, at ``grid`` patches a side, and its config."""
    cfg = Config.fromfile(config)
    if cfg.model.type != 'semmae.PartLearner':
        raise ValueError(f'{config} trains a {cfg.model.type}, expected a part learner, for '
                         'example mm_configs/semmae_parts.py')
    cfg.model.encoder.grid = grid or cfg.model.encoder.grid
    model = MODELS.build(cfg.model)
    load_whole(model, checkpoint)
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval(), cfg


@torch.no_grad()
def infer(model, batch, source='learned'):
    """(part_ids (B, L), foreground (B, L) scores) of a collated batch of `PackImage`.

    source 'learned': the argmax of Eq. 2; 'heads': the encoder's own last-layer heads (Table 4).
    """
    inputs = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
    if source == 'learned':
        out = model(inputs, mode='predict')
        return out['part_ids'], out['foreground']
    attention = model.encoder(inputs, return_heads=True)[2]
    return attention.argmax(1), attention.mean(1)


def extract_parts(config, checkpoint, images, out, grid=None, source='learned', batch_size=64,
                  num_workers=None, shard_size=4096):
    """Write the store ``out`` for all images below ``images`` and return it.

    Goes on where an interrupted call stopped; a complete store is not overwritten.
    num_workers: processes that decode; None: none below 4 cores, else up to 8.
    """
    if num_workers is None:
        num_workers = min(8, os.cpu_count()) if os.cpu_count() >= 4 else 0
    names = list_images(images)
    model, cfg = load_learner(config, checkpoint, grid)
    pipeline = without_flips(cfg)
    num_parts = model.num_parts if source == 'learned' else model.encoder.num_heads
    writer = PartStoreWriter(out, names, dict(
        grid=model.grid, num_parts=num_parts, source=source, view=view_of(pipeline),
        config=Path(config).name, learner_sha256=sha256(checkpoint),
        encoder_sha256=tensors_hash(model.encoder)), shard_size=shard_size)
    dataset = PartDataset(data_root=images, pipeline=pipeline)
    for start, stop in writer.todo():
        loader = DataLoader(Subset(dataset, range(start, stop)), batch_size=batch_size,
                            num_workers=num_workers, collate_fn=default_collate)
        results = [[t.cpu() for t in infer(model, batch, source)]
                   for batch in track(loader, f'parts {start}-{stop} of {len(names)}')]
        ids, foreground = (torch.cat(parts) for parts in zip(*results))
        writer.write(start, ids.numpy().astype(np.int64), to_bytes(foreground).numpy())
    return writer.finish()
