"""Training steps with `semmae.ViT` and `TimmViT` against those of mmpretrain, mmseg and timm.

python benchmarks/speed/backbones.py --out benchmarks/results/speed_backbones.json

Fine-tuning, linear probing with a frozen backbone, and UPerNet, eager and compiled (compile=True).
The same config, head, images, batch and optimiser (AdamW); only the backbone is another one of the
same sizes. All backbones of a task and mode run in alternation in one process. `timm` is timm's own
model and head in a plain PyTorch loop. UPerNet has a relative position bias as MAE's; 'UPerNet,
plain' has none. On a CPU UPerNet sees 256 pixels with ViT-B and 224 with ViT-S instead of 512, and
ViT-S has heads of 64 channels. mmseg's BEiT is its MAE but for the initial values. Memory is
counted, not measured. Prints a Markdown table, also written beside OUT; on two CPU cores about
10 minutes for each of small and mini, and 25 for paper.
"""
import statistics
import sys
from itertools import product
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.floor import action
from benchmarks.speed.masking import alternate
from benchmarks.speed.record import flops_of, milliseconds, parser, where, write
from semmae.parts.learner import own_device
from semmae.suites.step import step_of
from semmae.training.allocator import keep_freed_memory

REPO = Path(__file__).resolve().parents[2]
OURS, TIMM_VIT, TIMM = 'semmae.ViT', 'semmae.TimmViT', 'timm'
MMPRETRAIN = 'mmpretrain.VisionTransformer'
MMSEG, MMSEG_MAE = 'mmseg.VisionTransformer', 'mmseg.MAE'
# task: its backbones, and its config for full sizes
TASKS = {'fine-tuning': ((OURS, TIMM_VIT, MMPRETRAIN, TIMM),
                         'mm_configs/ablations/finetune_vit-base-p16.py'),
         'linear probing': ((OURS, TIMM_VIT, MMPRETRAIN, TIMM),
                            'mm_configs/ablations/linprobe_vit-base-p16.py'),
         'UPerNet': ((OURS, MMSEG_MAE), 'mm_configs/semmae_upernet_ade20k.py'),
         'UPerNet, plain': ((OURS, TIMM_VIT, MMSEG),
                            'mm_configs/ablations/upernet_vit-base-p16_plain.py')}
MINI = {'fine-tuning': 'mm_configs/mini/semmae_finetune_mini.py',
        'linear probing': 'mm_configs/mini/linprobe_p16_mini.py',
        'UPerNet': 'mm_configs/mini/semmae_upernet_ade20k_mini.py',
        'UPerNet, plain': 'mm_configs/mini/semmae_upernet_ade20k_mini.py'}
# size: width, layers, heads; pixels of UPerNet and batch on a CPU; steps of a turn
SIZES = {'paper': (768, 12, 12, 256, 2, 1), 'small': (384, 12, 6, 224, 4, 1),
         'mini': (96, 4, 3, 64, 16, 10)}
MODES = ('eager', 'compiled')


def config_of(task, size):
    """The config of a task with `semmae.ViT` of this size."""
    width, _, _, pixels, _, _ = SIZES[size]
    cfg = Config.fromfile(REPO / (MINI[task] if size == 'mini' else TASKS[task][1]))
    model = cfg.model
    if size == 'small':
        model.backbone.arch = 'deit-small'  # ViT-S; mmpretrain's 'small' is another network
        if 'UPerNet' in task:
            model.neck.embed_dim = width
            model.decode_head.update(in_channels=[width] * 4, channels=64)
            model.auxiliary_head.update(in_channels=width, channels=64)
        else:
            model.head.in_channels = width
        if task == 'linear probing':
            model.neck.input_features = width
    if 'UPerNet' in task:
        model.backbone.rel_pos_bias = task == 'UPerNet'
        if own_device() == 'cpu':
            model.backbone.img_size = pixels
    wrapper = cfg.optim_wrapper  # layer decay asks for a backbone of mmpretrain's
    cfg.optim_wrapper = {key: wrapper[key] for key in ('type', 'dtype', 'loss_scale')
                         if key in wrapper} | dict(optimizer=dict(type='AdamW', lr=1e-6,
                                                                  fused=True))
    return cfg


def backbone_of(name, ours, size):
    """The config of backbone ``name`` for what ``ours``, the config of `semmae.ViT`, does."""
    width, depth, heads, *_ = SIZES[size]
    shared = {key: ours[key] for key in ('img_size', 'patch_size', 'drop_path_rate',
                                         'out_indices') if key in ours}
    if name == MMPRETRAIN:
        frozen = dict(frozen_stages=depth) if ours.get('is_frozen') else {}
        return {key: value for key, value in ours.items() if key not in (
            'is_frozen', 'rel_pos_bias')} | dict(type=name, **frozen)
    if name == TIMM_VIT:
        return shared | dict(
            type=name, model_name='vit_base_patch16_224', embed_dim=width, depth=depth,
            num_heads=heads, **{key: ours[key] for key in ('out_type', 'final_norm', 'is_frozen')
                                if key in ours})
    arch = dict(embed_dims=width, num_layers=depth, num_heads=heads, mlp_ratio=4)
    if name == MMSEG_MAE:  # it always has a layer scale: 1 leaves everything as it is
        arch['init_values'] = 1.
    return shared | dict(type=name, **arch)


def variants(task, size):
    """{name of the backbone: config}, ours first; without timm's own model."""
    found = {}
    for name in TASKS[task][0]:
        if name != TIMM:
            found[name] = config_of(task, size)
            if name != OURS:
                found[name].model.backbone = backbone_of(name, found[name].model.backbone, size)
    return found


class Frozen(nn.Module):
    """A linear probe in plain PyTorch: frozen network, batch norm, linear classifier."""

    def __init__(self, network, width, classes):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes))

    def forward(self, images):
        with torch.no_grad():
            features = self.network(images)
        return self.head(features)


def plain(cfg, size, batch, is_compiled):
    """(a training step of timm's own model in a plain loop, its number of parameters)."""
    width, depth, heads, *_ = SIZES[size]
    ours, classes, place = cfg.model.backbone, cfg.model.head.num_classes, own_device()
    is_frozen = bool(ours.get('is_frozen'))
    model = timm.create_model(
        'vit_base_patch16_224', img_size=ours.img_size, patch_size=ours.patch_size,
        embed_dim=width, depth=depth, num_heads=heads, num_classes=0 if is_frozen else classes,
        drop_path_rate=ours.get('drop_path_rate', 0.), global_pool='token' if is_frozen else 'avg')
    if is_compiled:
        model.compile()
    model = (Frozen(model, width, classes) if is_frozen else model.train()).to(place)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6,
                                  fused=True)

    def step():
        images = torch.zeros(batch, 3, ours.img_size, ours.img_size, device=place)
        labels = torch.zeros(batch, dtype=torch.long, device=place)
        with torch.autocast('cuda', torch.bfloat16, place == 'cuda'):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return step, sum(p.numel() for p in model.parameters())


def built(task, size, batch, is_compiled):
    """{backbone: a training step} of a task."""
    cfgs = variants(task, size)
    return {name: plain(cfgs[OURS], size, batch, is_compiled)[0] if name == TIMM else
            action(cfgs[name], task, batch, is_compiled) for name in TASKS[task][0]}


def needs_of(name, task, size, batch):
    """What a training step with backbone ``name`` computes and has in memory."""
    cfgs = variants(task, size)
    if name == TIMM:
        step, parameters = plain(cfgs[OURS], size, batch, False)
        return dict(gflops_per_image=flops_of(step) / batch / 1e9, peak_bytes=None,
                    parameters=parameters)
    step = step_of(cfgs[name], batch, own_device() == 'cuda')
    return dict(gflops_per_image=step.flops / batch / 1e9, peak_bytes=step.peak,
                parameters=step.parameters // 4)


def ratios(found, base, name):
    """Median, lowest and highest ratio of pairs of seconds, as ``times_<name>``."""
    pairs = [seconds / other for seconds, other in zip(found, base)]
    return {f'times_{name}': statistics.median(pairs), f'times_{name}_lowest': min(pairs),
            f'times_{name}_highest': max(pairs)}


def repeated(step, turn):
    """``turn`` steps as one call."""
    def steps():
        for _ in range(turn):
            step()
    return steps


def measure(size, repeats, batch=None, modes=MODES, turn=None):
    """A row for each backbone of each task, eager and compiled."""
    rows, turn = [], turn or SIZES[size][-1]
    batch = batch or (32 if own_device() == 'cuda' else SIZES[size][-2])
    for task, mode in product(TASKS, modes):
        seconds = alternate({name: repeated(step, turn) for name, step in built(
            task, size, batch, mode == 'compiled').items()}, repeats, warm_up=2)
        pixels = config_of(task, size).model.backbone.img_size
        for name, found in seconds.items():
            timm_own = ratios(found, seconds[TIMM], 'timm') if (
                name == TIMM_VIT and TIMM in seconds) else {}
            rows.append(dict(
                task=task, backbone=name, size=size, mode=mode, batch=batch, repeats=repeats,
                steps_a_turn=turn, pixels=pixels, **milliseconds([s / turn for s in found]),
                **ratios(found, seconds[OURS], 'ours'), **timm_own,
                **needs_of(name, task, size, batch)))
    return rows


def table(record):
    """The record as Markdown."""
    lines = ['| size | | backbone | mode | batch | pixels | ms a step, median | lowest to highest '
             "| times ours, of pairs | lowest to highest | times timm's own | GFLOP an image | "
             'features and gradients, GB |', '|---' * 13 + '|']
    for row in record['rows']:
        own = (f'{row["times_timm"]:.3f} ({row["times_timm_lowest"]:.3f} to '
               f'{row["times_timm_highest"]:.3f})' if 'times_timm' in row else '')
        memory = '' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 1e9:.2f}'
        lines.append(
            f'| {row["size"]} | {row["task"]} | {row["backbone"]} | {row["mode"]} | '
            f'{row["batch"]} | {row["pixels"]} | {row["ms"]:,.1f} | {row["lowest"]:,.1f} to '
            f'{row["highest"]:,.1f} | {row["times_ours"]:.2f} | {row["times_ours_lowest"]:.2f} to '
            f'{row["times_ours_highest"]:.2f} | {own} | {row["gflops_per_image"]:,.3g} | '
            f'{memory} |')
    return '\n'.join([*lines, '', 'Times ours: relative to `semmae.ViT` in the same task and mode. '
                      f'{record["rows"][0]["repeats"]} turns in alternation. {where(record)}'])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
    options.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    options.add_argument('--batch-size', type=int, help='default 2, 4 and 16, GPU 32')
    options.add_argument('--repeats', type=int, default=9)
    options.add_argument('--quick', action='store_true', help='one eager step of size mini')
    args = options.parse_args(arguments)
    if args.quick:
        args.sizes, args.modes, args.repeats, args.batch_size = ['mini'], ['eager'], 1, 2
    keep_freed_memory()  # as a training does
    rows = [row for size in args.sizes
            for row in measure(size, args.repeats, args.batch_size, args.modes,
                               turn=1 if args.quick else None)]
    write(args.out, __file__, arguments, table, rows=rows)


if __name__ == '__main__':
    main()
