"""A trained part learner: its config, loading, and the manifest fields of its parts."""
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoints.load import load_whole
from ..config.lookup import kind
from ..config.options import read_config
from ..datasets.geometry import view_of
from ..datasets.photos import Photos
from ..files import sha256
from ..models.part_sources import SOURCES
from ..registry import MODELS
from ..training.precision import mixed_precision
from .photos import without_random_steps


@dataclass(frozen=True)
class LearnerSource:
    """A trained part learner as the source of parts.

    grid: patches a side; None: the config's. source: a key of `SOURCES`.
    options: overrides of the config.
    amp: mixed precision also without a GPU, as --amp of a training.
    """

    config: str | Path
    checkpoint: str | Path
    grid: int | None = None
    source: str = 'learned'
    options: dict | None = None
    amp: bool = False

    def at_grid(self, cfg):
        """The config with the grid set; ValueError if it trains no part learner."""
        if cfg.model.type != 'semmae.PartLearner':
            raise ValueError(f'{self.config} trains a {cfg.model.type}, expected a part learner, '
                             'for example mm_configs/semmae_parts.py')
        cfg.model.encoder.grid = self.grid or cfg.model.encoder.grid
        return cfg

    def load(self):
        """(model in evaluation mode, its config). Prints a warning if part learning collapsed."""
        cfg = self.at_grid(read_config(self.config, self.options))
        if self.amp:
            cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=True)
        if self.source not in SOURCES:
            raise ValueError(f'source of parts is {self.source!r}, expected one of '
                             f'{", ".join(SOURCES)}')
        if (cfg.model.get('parts') or {}).get('type') != SOURCES[self.source]:
            cfg.model.parts = dict(type=SOURCES[self.source])
        model = MODELS.build(cfg.model)
        meta = load_whole(model, self.checkpoint)
        health = meta.get('part_health') or {}
        model.trained = (meta.get('semmae') or {}).get('identity')
        model.collapsed = health.get('collapsed', []) if self.source == 'learned' else []
        if model.collapsed:
            print(f'{self.checkpoint}: PART LEARNING HAD COLLAPSED OR FAILED: '
                  f'{"; ".join(model.collapsed)}', file=sys.stderr)
        return model.to(own_device()).eval(), cfg

    def open(self, images):
        """(model, `Photos` of a folder of images, fields of a manifest: how the parts are made)."""
        model, cfg = self.load()
        pipeline = without_random_steps(cfg)
        return model, Photos(images, pipeline), dict(
            grid=model.grid, num_parts=model.num_parts_out, source=self.source,
            collapsed=model.collapsed,
            parts=dict(cfg.model.parts, foreground=getattr(model.parts, 'foreground', 'own')),
            softmax_over=model.softmax_over, view=view_of(pipeline),
            config=Path(self.config).name, learner=model.trained,
            learner_sha256=sha256(self.checkpoint), encoder_sha256=tensors_hash(model.encoder),
            precision=precision_of(cfg, self.source))


def tensors_hash(module) -> str:
    """sha256 of the weights of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def own_device():
    """The GPU of this process, by its number on the node (torchrun, Slurm); else the CPU."""
    if not torch.cuda.is_available():
        return 'cpu'
    number = int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0)))
    torch.cuda.set_device(number % torch.cuda.device_count())  # Slurm may hide other GPUs
    return 'cuda'


def precision_of(cfg, source='learned'):
    """Learned parts are computed in the precision of training, all else in float32.

    A config of mixed precision means float32 on a CPU, unless it was asked for (--amp).
    """
    optim = cfg.optim_wrapper
    is_mixed = kind(optim) == 'CPUAmpOptimWrapper' or (
        torch.cuda.is_available() and kind(optim) == 'AmpOptimWrapper')
    return (optim.get('dtype') or 'float16') if is_mixed and source == 'learned' else 'float32'
