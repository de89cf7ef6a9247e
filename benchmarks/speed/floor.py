"""What each stage costs an image, and how far from the floor of this device it is.

python benchmarks/speed/floor.py --out benchmarks/results/speed_floor.json

The floor is the longer of computing and moving what a step has to (`semmae.suites.step`), at
the fastest product of two matrices and the fastest copy found here, or at --tflops and --bandwidth
of another device, where nothing is then run. What is timed is the very step that is counted: loss,
backward pass and update on blank images, without loading, decoding and masks. Prints a Markdown
table, also written beside OUT; about three minutes on two CPU cores.
"""
import statistics
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.masking import alternate
from benchmarks.speed.record import parser, where, write
from semmae.parts.learner import own_device
from semmae.registry import MODELS
from semmae.suites.costs import optimizer_states
from semmae.suites.roofline import Device, probe
from semmae.suites.step import encoding_of, loss_of, step_of, structure
from semmae.training.allocator import keep_freed_memory
from semmae.training.compile import compile_parts
from semmae.training.precision import mixed_precision

REPO = Path(__file__).resolve().parents[2]
IMAGENET = 1_281_167
SMALL = 'UPerNet, ViT-B/16'  # at 256 pixels on a CPU: 40 s a step of two cores at 512
# size: {stage: (config, images on a CPU; on a GPU the config's batch)}
STAGES = dict(
    paper={'part learning': ('mm_configs/semmae_parts.py', 4),
           'part extraction': ('mm_configs/semmae_parts.py', 4),
           'pre-training, ViT-B/16': ('mm_configs/ablations/semmae_vit-base-p16.py', 8),
           'pre-training, ViT-B/8': ('mm_configs/semmae_pretrain.py', 4),
           'linear probing, ViT-B/8': ('mm_configs/semmae_linprobe.py', 8),
           'fine-tuning, ViT-B/8': ('mm_configs/semmae_finetune.py', 2),
           'UPerNet, ViT-B/16': ('mm_configs/semmae_upernet_ade20k.py', 2)},
    mini={'part learning': ('mm_configs/mini/semmae_parts_mini.py', 32),
          'part extraction': ('mm_configs/mini/semmae_parts_mini.py', 32),
          'pre-training': ('mm_configs/mini/semmae_pretrain_mini.py', 64),
          'linear probing': ('mm_configs/mini/linprobe_p8_mini.py', 64),
          'fine-tuning': ('mm_configs/mini/semmae_finetune_mini.py', 32),
          'UPerNet': ('mm_configs/mini/semmae_upernet_ade20k_mini.py', 16)})


def here(seconds=1.):
    """The sustained rates of this machine, in the precision of its trainings."""
    return probe(own_device(), 'bfloat16' if torch.cuda.is_available() else 'float32', seconds)


def counted(cfg, stage, batch, is_mixed):
    """(`Step`, bytes that it moves)."""
    if stage == 'part extraction':
        step = encoding_of(cfg.model.encoder, batch, is_mixed)
        return step, step.moved(0)
    step = step_of(cfg, batch, is_mixed)
    return step, step.moved(optimizer_states(cfg))


def action(cfg, stage, batch, is_compiled=False):
    """``step()``: runs once what `counted` counts. is_compiled: as with compile=True."""
    place = own_device()
    with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as models:
        model = revert_sync_batchnorm(models.build(Config(structure(cfg.model)))).to(place).train()
    compile_parts(model, is_compiled)
    if stage == 'part extraction':
        side = model.encoder.grid * model.encoder.patch_size
        images = torch.zeros(batch, 3, side, side, device=place)

        @torch.no_grad()
        def extract():
            with torch.autocast('cuda', torch.bfloat16, place == 'cuda'):
                model.encoder(images)
        return extract
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        optim = build_optim_wrapper(model, mixed_precision(cfg.optim_wrapper, asked=False))
    optim.message_hub = MessageHub('speed')

    def learn():
        with torch.device(place), optim.optim_context(model):
            loss = loss_of(model, batch)
        optim.update_params(loss)
    return learn


def measure(size, repeats, device=None, seconds=1.):
    """A row for each stage; with a ``device`` that is not this one, nothing is timed."""
    is_here, place = device is None, own_device()
    is_mixed = not is_here or place == 'cuda'
    rows, actions = [], {}
    first = device or here(seconds)
    for stage, (path, batch) in STAGES[size].items():
        cfg = Config.fromfile(REPO / path)
        if is_mixed:
            batch = cfg.train_dataloader.batch_size
        elif stage == SMALL:
            cfg.model.backbone.img_size, stage = 256, f'{SMALL}, 256 pixels'
        step, moved = counted(cfg, stage, batch, is_mixed)
        rows.append(dict(stage=stage, size=size, config=path, batch=batch, flops=step.flops / batch,
                         bytes=moved / batch,
                         epochs=cfg.train_cfg.get('max_epochs', 1)))
        if stage == 'part extraction':
            rows[-1]['epochs'] = 1
        if is_here:
            actions[stage] = action(cfg, stage, batch)
    spent = alternate(actions, repeats, warm_up=1)
    if is_here:  # the faster of before and after, so that no stage is below the floor
        last = here(seconds)
        device = Device(max(first.flops, last.flops), max(first.bandwidth, last.bandwidth))
    for row in rows:
        work = row['flops'], row['bytes']
        row.update(floor_s=device.lower_bound(*work), bound='compute' if device.lower_bound(
            *work) == work[0] / device.flops else 'memory')
        if row['stage'] in spent:
            found = [s / row['batch'] for s in spent[row['stage']]]
            row.update(image_s=statistics.median(found), lowest=min(found), highest=max(found),
                       repeats=repeats, times_floor=statistics.median(found) / row['floor_s'])
        if size == 'paper' and 'UPerNet' not in row['stage']:
            row['imagenet_hours_floor'] = IMAGENET * row['epochs'] * row['floor_s'] / 3600
    return rows, device


def table(record):
    """The record as Markdown."""
    lines = ['| | batch | GFLOP an image | MB an image | floor, ms an image | bound by | measured '
             '| lowest to highest | times the floor | ImageNet-1k at the floor, hours |',
             '|---|---|---|---|---|---|---|---|---|---|']
    for row in record['rows']:
        hours = row.get('imagenet_hours_floor')
        said = (f'{1e3 * row["image_s"]:,.3g} | {1e3 * row["lowest"]:,.3g} to '
                f'{1e3 * row["highest"]:,.3g} | {row["times_floor"]:.2f}' if 'image_s' in row
                else 'not measured | | ')
        lines.append(
            f'| {row["stage"]} | {row["batch"]} | {row["flops"] / 1e9:,.1f} | '
            f'{row["bytes"] / 1e6:,.0f} | {1e3 * row["floor_s"]:,.3g} | {row["bound"]} | {said} | '
            + (f'{hours:,.1f} ({row["epochs"]} epoch{"s" * (row["epochs"] > 1)}) |' if hours
               else '|'))
    return '\n'.join([*lines, '', f'{record["of"]}: {record["tflops"]:.3g} TFLOP/s, '
                      f'{record["gb_per_s"]:.4g} GB/s. {where(record)}'])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--size', choices=STAGES, default='paper')
    options.add_argument('--repeats', type=int, default=3)
    options.add_argument('--seconds', type=float, default=2, help='of each probe')
    options.add_argument('--tflops', type=float, help='of another device, in mixed precision')
    options.add_argument('--bandwidth', type=float, help='of its memory, in GB/s')
    args = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    if bool(args.tflops) != bool(args.bandwidth):
        options.error('another device is --tflops and --bandwidth, found only one of them')
    device = Device(args.tflops * 1e12, args.bandwidth * 1e9) if args.tflops else None
    rows, found = measure(args.size, args.repeats, device, args.seconds)
    write(args.out, __file__, arguments, table, rows=rows,
          of='Given' if device else 'Measured here', tflops=found.flops / 1e12,
          gb_per_s=found.bandwidth / 1e9)


if __name__ == '__main__':
    main()
