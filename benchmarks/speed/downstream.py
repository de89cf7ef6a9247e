"""What an image costs downstream at 8x8: linear probing sees 196 patches, fine-tuning all 784.

python benchmarks/speed/downstream.py --out benchmarks/results/speed_downstream.json

One training step of each shipped config (ViT-B, forward, backward and update), in alternation in
one process, with the patches that the first layer really got. Prints a Markdown table, also written
beside OUT; about two minutes on two CPU cores.
"""
import statistics
import sys
from pathlib import Path

import torch
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.masking import alternate
from benchmarks.speed.record import flops_of, parser, where, write
from semmae.parts.learner import own_device
from semmae.registry import MODELS
from semmae.training.allocator import keep_freed_memory

REPO = Path(__file__).resolve().parents[2]
CONFIGS = {'linear probing, ViT-B/16': 'mm_configs/ablations/linprobe_vit-base-p16.py',
           'linear probing, ViT-B/8': 'mm_configs/semmae_linprobe.py',
           'fine-tuning, ViT-B/16': 'mm_configs/ablations/finetune_vit-base-p16.py',
           'fine-tuning, ViT-B/8': 'mm_configs/semmae_finetune.py'}


def training_step(config, batch):
    """(a training step, patches in the first layer, FLOPs of an image) of a config."""
    from mmpretrain.structures import DataSample
    cfg = Config.fromfile(REPO / config)
    model = dict(cfg.model, train_cfg=None)  # mixing two images costs nothing to speak of
    model['backbone'] = dict(model['backbone'], init_cfg=None)
    model = MODELS.build(model).to(own_device()).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    length = model.backbone.patch_resolution[0] * model.backbone.patch_resolution[1]
    samples = []
    for label in range(batch):
        sample = DataSample().set_gt_label(label)
        sample.set_field(torch.randint(256, (length,)), 'foreground')
        samples.append(sample)
    data = model.data_preprocessor(dict(
        inputs=torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8), data_samples=samples))
    seen = []
    hook = model.backbone.layers[0].register_forward_hook(
        lambda layer, inputs, output: seen.append(inputs[0].shape[1] - 1))

    def step():
        optimizer.zero_grad()
        with torch.autocast('cuda', torch.bfloat16, torch.cuda.is_available()):
            losses = model(**data, mode='loss')
        losses['loss'].backward()
        optimizer.step()
    flops = flops_of(step)
    hook.remove()
    return step, seen[0], flops / batch


def measure(batch, repeats):
    built = {name: training_step(config, batch) for name, config in CONFIGS.items()}
    seconds = alternate({name: step for name, (step, _, _) in built.items()}, repeats, warm_up=1)
    return [dict(name=name, patches=patches, gflops_per_image=flops / 1e9, batch=batch,
                 images_per_s=batch / statistics.median(seconds[name]),
                 lowest=batch / max(seconds[name]), highest=batch / min(seconds[name]),
                 repeats=repeats) for name, (_, patches, flops) in built.items()]


def table(record):
    """The record as Markdown."""
    lines = ['| | patches | images/s, median | lowest to highest | GFLOP an image |',
             '|---|---|---|---|---|']
    lines += [f'| {row["name"]} | {row["patches"]} | {row["images_per_s"]:.2f} | '
              f'{row["lowest"]:.2f} to {row["highest"]:.2f} | {row["gflops_per_image"]:.1f} |'
              for row in record['rows']]
    return '\n'.join([*lines, '', f'Batches of {record["rows"][0]["batch"]}. {where(record)}'])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--batch-size', type=int, help='default 2, GPU 128')
    options.add_argument('--repeats', type=int, default=5)
    args = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    batch = args.batch_size or (128 if torch.cuda.is_available() else 2)
    write(args.out, __file__, arguments, table,
          rows=measure(batch, args.repeats))


if __name__ == '__main__':
    main()
