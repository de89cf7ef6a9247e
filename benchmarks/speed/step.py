"""A pre-training step against mmpretrain's MAE of the same sizes, on whatever device is there.

python benchmarks/speed/step.py --out benchmarks/results/speed_step.json

One step is what `train_step` does: bytes to normalised images, mask, forward, backward, update.
Both sides have the same sizes, batch and images, and the optimiser of their own shipped configs;
masks are random unless named. The sides run in alternation, each in a process set up as its own
train.py does. Mini does ten steps a turn, because one is too short, and is started five times,
because the memory allocation of a process varies between starts. mmpretrain has no mixed precision
on a CPU. Compiled: compile=True; for mmpretrain as mmengine applies it. The matrix rate is that of
the fastest matrix product in the same precision, before and after. Days: 800 epochs of ImageNet-1k
at the step's rate, without loss between devices. Prints a Markdown table, also written beside OUT;
about half an hour on two CPU cores.
"""
import multiprocessing
import statistics
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.masking import alternate
from benchmarks.speed.record import flops_of, milliseconds, parser, where, write
from semmae.parts.learner import own_device
from semmae.registry import MODELS
from semmae.suites.costs import quiet
from semmae.suites.roofline import probe
from semmae.training.allocator import keep_freed_memory
from semmae.training.compile import compile_parts
from semmae.training.precision import mixed_precision, multiplies_bfloat16

REPO = Path(__file__).resolve().parents[2]
IMAGES = 800 * 1_281_167  # of the paper's pre-training (Sec. 4.1), ImageNet-1k
OURS = 'mm_configs/ablations/mae_vit-base-p16.py'
SEMMAE = 'mm_configs/ablations/semmae_vit-base-p16.py'
MINI = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
# name: images a side, patch size, encoder, width, decoder's width, depth and heads, batch on a CPU
SIZES = {'ViT-B/16': (224, 16, 'base', 768, 512, 8, 16, 16),
         'ViT-B/8': (224, 8, 'base', 768, 512, 8, 16, 4),
         'mini': (64, 8, MINI, 96, 64, 1, 2, 64)}


def theirs(size, is_half, compiled=False):
    """mmpretrain's MAE and the optimiser of its ``mae_vit-base-p16_8xb512-amp-coslr-*`` configs."""
    side, patch, arch, width, dec_width, dec_depth, dec_heads, _ = SIZES[size]
    model = MODELS.build(dict(
        type='mmpretrain.MAE',
        data_preprocessor=dict(type='mmpretrain.SelfSupDataPreprocessor',
                               mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                               to_rgb=True),
        backbone=dict(type='mmpretrain.MAEViT', arch=arch, img_size=side, patch_size=patch,
                      mask_ratio=.75),
        neck=dict(type='mmpretrain.MAEPretrainDecoder', patch_size=patch, in_chans=3,
                  embed_dim=width, decoder_embed_dim=dec_width, decoder_depth=dec_depth,
                  decoder_num_heads=dec_heads, mlp_ratio=4., num_patches=(side // patch) ** 2),
        head=dict(type='mmpretrain.MAEPretrainHead', norm_pix=True, patch_size=patch,
                  loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'))))
    model = model.to(own_device()).train()
    if compiled:  # as mmengine's runner does with compile=True
        model.train_step = torch.compile(model.train_step)
    precision = dict(type='AmpOptimWrapper', loss_scale='dynamic') if is_half else dict(
        type='OptimWrapper')
    no_decay = dict(decay_mult=0.)
    return model, build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=2.4e-3, betas=(.9, .95), weight_decay=.05), **precision,
        paramwise_cfg=dict(custom_keys={key: no_decay for key in (
            'ln', 'bias', 'pos_embed', 'mask_token', 'cls_token')})))


def ours(size, dtype, config=OURS, compiled=False):
    """Our model and optimiser, as tools/train.py would build them. dtype: None is float32."""
    side, patch, arch, width, dec_width, dec_depth, dec_heads, _ = SIZES[size]
    cfg = Config.fromfile(REPO / config)
    cfg.model.backbone.update(img_size=side, patch_size=patch)
    cfg.model.backbone.arch = arch
    cfg.model.decoder.update(grid=side // patch, patch_size=patch, embed_dim=width,
                             decoder_embed_dim=dec_width, decoder_depth=dec_depth,
                             decoder_num_heads=dec_heads)
    model = MODELS.build(cfg.model).to(own_device()).train()
    if compiled:
        compile_parts(model, True)
    wrapper = cfg.optim_wrapper
    if dtype is None:
        wrapper = {k: v for k, v in wrapper.items() if k not in ('dtype', 'loss_scale')}
        wrapper['type'] = 'OptimWrapper'
    else:
        wrapper = mixed_precision(dict(wrapper, dtype=dtype), asked=True)
    return model, build_optim_wrapper(model, wrapper)


def step_of(model, optim, size, batch):
    """``step()``: one `train_step` on the same images each time."""
    side, patch = SIZES[size][:2]
    length = (side // patch) ** 2
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=g)
    data = dict(inputs=images, part_ids=torch.randint(6, (batch, length), generator=g),
                noise=torch.rand(batch, length + 6, generator=g))
    if hasattr(model, 'neck'):
        data = dict(inputs=images, data_samples=None)

    def step():
        model.train_step(data, optim)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return step


def built(is_ours, size):
    """{name: (model, optimiser)} of one side, in the precisions that this device has."""
    is_gpu = own_device() != 'cpu'
    if not is_ours:
        name = f'mmpretrain, {"AMP" if is_gpu else "float32"}'
        return {name: theirs(size, is_gpu),
                f'{name}, compiled': theirs(size, is_gpu, compiled=True)}
    ways = {'ours, float32': ours(size, None),
            'ours, float32, compiled': ours(size, None, compiled=True)}
    if is_gpu or multiplies_bfloat16():
        ways |= {'ours, bfloat16': ours(size, 'bfloat16'),
                 'ours, bfloat16, compiled': ours(size, 'bfloat16', compiled=True),
                 'ours, bfloat16, part-guided masks': ours(size, 'bfloat16', SEMMAE)}
    return ways


def serve(pipe, is_ours, size, batch, turn):
    """One side in its own process, set up as its train.py does.

    For each name that the pipe sends, it runs ``turn`` steps of that variant. FLOPs are counted at
    the end: counted first, they would change the memory layout of the process.
    """
    if is_ours:
        keep_freed_memory()
    torch.manual_seed(0)
    with quiet():
        steps = {name: step_of(*pair, size, batch) for name, pair in built(is_ours, size).items()}
    pipe.send(list(steps))
    while name := pipe.recv():
        for _ in range(turn):
            steps[name]()
        pipe.send(name)
    pipe.send({name: flops_of(step) / batch for name, step in steps.items()
               if 'compiled' not in name})


def race(size, batch, turn, repeats):
    """({name: seconds of a step}, {name: FLOPs of an image}) of both sides, started once."""
    context, actions, flops, sides = multiprocessing.get_context('spawn'), {}, {}, []
    for is_ours in (False, True):
        here, there = context.Pipe()
        side = context.Process(target=serve, args=(there, is_ours, size, batch, turn), daemon=True)
        side.start()
        there.close()
        actions |= {name: lambda name=name, here=here: (here.send(name), here.recv())
                    for name in here.recv()}
        sides.append((side, here))
    seconds = alternate(actions, repeats, warm_up=1)
    for side, here in sides:
        here.send(None)
        flops |= here.recv()
        side.join()
    return {name: [s / turn for s in found] for name, found in seconds.items()}, flops


def matrix_rates():
    """{precision: operations a second} of this device."""
    return {dtype: probe(own_device(), dtype).flops for dtype in ('float32', 'bfloat16')}


def precision_of(name):
    """The precision of a variant's matrices; float16 (mmpretrain's AMP) is as fast as bfloat16."""
    return 'float32' if 'float32' in name else 'bfloat16'


def measure(size, repeats, batch=None):
    """Rows of one size."""
    count = batch or SIZES[size][-1] * (16 if own_device() != 'cpu' else 1)
    starts, turn = (5, 10) if SIZES[size][2] == MINI else (1, 1)
    seconds, before = {}, matrix_rates()
    for _ in range(starts):
        found, flops = race(size, count, turn, repeats)
        for name, times in found.items():
            seconds.setdefault(name, []).extend(times)
    rates = {dtype: max(rate, before[dtype]) for dtype, rate in matrix_rates().items()}
    base = statistics.median(next(iter(seconds.values())))
    rows = []
    for name, found in seconds.items():
        middle = statistics.median(found)
        work = flops[name.removesuffix(', compiled')]
        rows.append(dict(
            size=size, name=name, batch=count, **milliseconds(found), repeats=len(found),
            starts=starts, steps_a_turn=turn,
            images_per_s=count / middle, gflops_per_image=work / 1e9,
            tflops=work * count / middle / 1e12, matrix_tflops=rates[precision_of(name)] / 1e12,
            times_faster=base / middle))
    return rows


def days(row, devices):
    """Days for 800 epochs of ImageNet-1k on ``devices`` devices that scale perfectly."""
    return IMAGES / row['images_per_s'] / devices / 86400


def table(record):
    """The record as Markdown."""
    lines = ['| size | | batch | ms, median | lowest to highest | images/s | GFLOP an image | '
             'TFLOP/s | of the matrix rate | times as fast | days on 8 | on 16 |',
             '|---' * 12 + '|']
    for row in record['rows']:
        long = (f'{days(row, 8):,.1f} | {days(row, 16):,.1f}' if row['size'] != 'mini' else ' | ')
        lines.append(
            f'| {row["size"]} | {row["name"]} | {row["batch"]} | {row["ms"]:,.1f} | '
            f'{row["lowest"]:,.1f} to {row["highest"]:,.1f} | {row["images_per_s"]:,.1f} | '
            f'{row["gflops_per_image"]:.3g} | {row["tflops"]:.3g} | '
            f'{row["tflops"] / row["matrix_tflops"]:.0%} | {row["times_faster"]:.2f} | {long} |')
    return '\n'.join([
        *lines, '', 'Days: 800 epochs of ImageNet-1k on so many devices like this one; the paper '
        'took 3 days on 16 A100 (Sec. 4.1). ' + where(record)])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
    options.add_argument('--batch-size', type=int, help='default 16, 4 and 64, GPU 16 times that')
    options.add_argument('--repeats', type=int, default=5, help='turns of each start')
    args = options.parse_args(arguments)
    rows = [row for size in args.sizes for row in measure(size, args.repeats, args.batch_size)]
    write(args.out, __file__, arguments, table, rows=rows)


if __name__ == '__main__':
    main()
