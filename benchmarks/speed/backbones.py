"""Fine-tuning and UPerNet steps with our ViT against mmpretrain's and mmseg's own.

python benchmarks/speed/backbones.py --out benchmarks/results/speed_backbones.json

The same config, head, images, batch and optimiser (AdamW); only the backbone is another one of the
same sizes, and all run in alternation in one process. On a CPU UPerNet sees 256 pixels instead of
512. mmseg's BEiT is its MAE but for the initial values. Memory is counted, not measured. Prints a
Markdown table, also written beside OUT; about three minutes on two CPU cores.
"""
import statistics
import sys
from pathlib import Path

from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.floor import action
from benchmarks.speed.masking import alternate
from benchmarks.speed.record import milliseconds, parser, where, write
from semmae.parts.learner import own_device
from semmae.suites.step import step_of
from semmae.training.allocator import keep_freed_memory

REPO = Path(__file__).resolve().parents[2]
VIT_B = dict(embed_dims=768, num_layers=12, num_heads=12, mlp_ratio=4)
MINI = dict(embed_dims=96, num_layers=4, num_heads=3, mlp_ratio=4)
# size: {task: (config, pixels on a CPU, size in mmseg's words)}
TASKS = dict(
    paper={'fine-tuning': ('mm_configs/ablations/finetune_vit-base-p16.py', 224, VIT_B),
           'UPerNet': ('mm_configs/semmae_upernet_ade20k.py', 256, VIT_B)},
    mini={'fine-tuning': ('mm_configs/mini/semmae_finetune_mini.py', 64, MINI),
          'UPerNet': ('mm_configs/mini/semmae_upernet_ade20k_mini.py', 64, MINI)})


def variants(task, size):
    """{name of the backbone: config}, ours first."""
    path, pixels, arch = TASKS[size][task]
    found = {}
    for name in ('semmae.ViT', 'mmpretrain.VisionTransformer' if task == 'fine-tuning'
                 else 'mmseg.MAE'):
        cfg = Config.fromfile(REPO / path)
        backbone = cfg.model.backbone
        if own_device() == 'cpu':
            backbone.img_size = pixels
        if name == 'mmpretrain.VisionTransformer':
            backbone.type = name
        if name == 'mmseg.MAE':  # it always has a layer scale: 1 leaves everything as it is
            cfg.model.backbone = dict(
                {key: backbone[key] for key in ('img_size', 'patch_size', 'drop_path_rate',
                                                'out_indices')}, type=name, init_values=1., **arch)
        wrapper = cfg.optim_wrapper  # layer decay asks for a backbone of mmpretrain's
        cfg.optim_wrapper = {key: wrapper[key] for key in ('type', 'dtype', 'loss_scale')
                             if key in wrapper} | dict(optimizer=dict(type='AdamW', lr=1e-6,
                                                                      fused=True))
        found[name] = cfg
    return found


def measure(size, repeats, batch):
    """A row for each backbone of each task."""
    rows, is_mixed = [], own_device() == 'cuda'
    for task in TASKS[size]:
        cfgs = variants(task, size)
        steps = {name: step_of(cfg, batch, is_mixed) for name, cfg in cfgs.items()}
        seconds = alternate({name: action(cfg, task, batch) for name, cfg in cfgs.items()},
                            repeats, warm_up=1)
        for name, found in seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(found, seconds['semmae.ViT'])]
            rows.append(dict(
                task=task, backbone=name, size=size, batch=batch, repeats=repeats,
                pixels=cfgs['semmae.ViT'].model.backbone.img_size,
                **milliseconds(found), times_ours=statistics.median(ratios),
                times_ours_lowest=min(ratios), times_ours_highest=max(ratios),
                gflops_per_image=steps[name].flops / batch / 1e9, peak_bytes=steps[name].peak,
                parameters=steps[name].parameters // 4))
    return rows


def table(record):
    """The record as Markdown."""
    lines = ['| | backbone | pixels | ms a step, median | lowest to highest | times ours, of pairs '
             '| lowest to highest | GFLOP an image | features and gradients, GB |',
             '|---|---|---|---|---|---|---|---|---|']
    lines += [f'| {row["task"]} | {row["backbone"]} | {row["pixels"]} | {row["ms"]:,.0f} | '
              f'{row["lowest"]:,.0f} to {row["highest"]:,.0f} | {row["times_ours"]:.2f} | '
              f'{row["times_ours_lowest"]:.2f} to {row["times_ours_highest"]:.2f} | '
              f'{row["gflops_per_image"]:,.1f} | {row["peak_bytes"] / 1e9:.2f} |'
              for row in record['rows']]
    return '\n'.join([*lines, '', f'Batches of {record["rows"][0]["batch"]}. {where(record)}'])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--size', choices=TASKS, default='paper')
    options.add_argument('--batch-size', type=int, help='default 2, GPU 32')
    options.add_argument('--repeats', type=int, default=3)
    args = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    batch = args.batch_size or (32 if own_device() == 'cuda' else 2)
    write(args.out, __file__, arguments, table,
          rows=measure(args.size, args.repeats, batch))


if __name__ == '__main__':
    main()
