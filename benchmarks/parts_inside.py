"""Which changes make parts inside the object? Part learners on the same cached features.

python tools/run_suite.py parts --seeds 0 1 2            (the encoders, and the tables beside this)
for s in 0 1 2; do python tools/train.py mm_configs/mini/mae_p16_mini.py --seed $s \\
    --work-dir work_dirs/parts_64/seed$s/mae_p16 --cfg-options train_cfg.max_epochs=64 \\
    param_scheduler.1.T_max=62 param_scheduler.1.end=64; done
python benchmarks/parts_inside.py --out benchmarks/results/parts/inside

Appends a line for each variant, seed and metric to OUT/results.jsonl, skips those that are there,
and writes OUT/table.md. The learners are those of `semmae.models`, at the size and length of
mm_configs/mini (280 steps of 32 images, 12x12 patches, 6 parts), without flips, so that the frozen
encoder runs once. Each seed has an encoder of its own. 1,000 validation images with true parts.
"""
import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.dataset import default_collate

from semmae.evaluation.metrics import PartSegmentation
from semmae.files import sha256, write_atomically
from semmae.functional.losses import diversity_loss
from semmae.functional.parts import blur_maps, border_share
from semmae.models import PartLearner
from semmae.recording.environment import device, git_commit, versions
from semmae.registry import DATASETS, MODELS
from semmae.reporting.part_tables import cell, origin_sentence
from semmae.results.results import append_result, read_results

TOY = Path('data/toy/imagenet')
ARCH = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
VIT = dict(type='semmae.ViT', arch=ARCH, img_size=64, patch_size=8)
ENCODERS = {
    'mae': 'work_dirs/parts/seed{seed}/mae_p16/epoch_16.pth',
    'mae, 64 epochs': 'work_dirs/parts_64/seed{seed}/mae_p16/epoch_64.pth',
    'labels': 'work_dirs/parts/seed{seed}/mae_p16/epoch_16.pth',  # where it starts from
    'untrained': None}
METRICS = {'ARI': 'ARI', 'NMI': 'NMI', 'object_ARI': 'ARI, object', 'object_NMI': 'NMI, object',
           'object_IoU': 'IoU, object', 'object_pooled_NMI': 'NMI, object, pooled',
           'parts_used': 'parts used'}

PAINT = dict(type='semmae.PaintDecoder', texture='parts')
TOKENS = dict(decoder=dict(PAINT, paints_tokens=True), token_weight=.1)
CONV = dict(type='semmae.PartDecoder', channels=(32, 32, 32), num_upsamplings=1)
# name: what is changed of the learner, of its training, and its class
VARIANTS = {
    "paper's decoder": {},
    'paper, untrained encoder': dict(encoder='untrained'),
    'paper, encoder: MAE for 64 epochs': dict(encoder='mae, 64 epochs'),
    'paper, encoder trained with labels': dict(encoder='labels'),
    'paper, grid 8x8': dict(grid=8),
    'paper, grid 16x16': dict(grid=16),
    'paper, 3 times longer': dict(steps=840),
    'paper, 4 parts': dict(num_parts=4),
    'paper, 12 parts': dict(num_parts=12),
    'paper, softmax over positions': dict(softmax_over='positions'),
    'paper, no blur': dict(blur_kernel=1),
    'paper, no diversity loss': dict(diversity_weight=0.),
    'paper, diversity weight 0.3': dict(diversity_weight=.3),
    'paper, diversity of blurred maps (0.1)': dict(kind='DiverseAfterBlur', diversity_weight=.1),
    'paper, mean patch token as F_c': dict(is_mean=True),
    'paper, object first, parts within': dict(kind='Within'),
    'paper, logits / sqrt(D), lr 1e-3': dict(kind='Scaled', lr=1e-3),
    'painted by the class token': dict(decoder=dict(PAINT, texture='class_token')),
    'painted by its own patches': dict(decoder=PAINT),
    'painted, object first, parts within': dict(kind='Within', decoder=PAINT),
    'painted, and tokens (0.1)': TOKENS,
    'with tokens, untrained encoder': dict(TOKENS, encoder='untrained'),
    'with tokens, encoder: MAE for 64 epochs': dict(TOKENS, encoder='mae, 64 epochs'),
    'with tokens, encoder trained with labels': dict(TOKENS, encoder='labels'),
    'with tokens, grid 8x8': dict(TOKENS, grid=8),
    'with tokens, grid 16x16': dict(TOKENS, grid=16),
    'with tokens, 3 times longer': dict(TOKENS, steps=840),
    'with tokens, 12 parts': dict(TOKENS, num_parts=12),
    'with tokens, softmax over positions': dict(TOKENS, softmax_over='positions'),
    'with tokens, no diversity loss': dict(TOKENS, diversity_weight=0.),
    'with tokens, weight 1': dict(TOKENS, token_weight=1.),
    'with tokens, logits / sqrt(D), lr 1e-3': dict(TOKENS, kind='Scaled', lr=1e-3)}


@MODELS.register_module()
class CachedTokens(torch.nn.Module):
    """The cached output of the frozen encoder for the images that `look` set last.

    tokens: {split: (class tokens (N, D), patch tokens (N, L, D))}. is_mean: the mean patch token
        in place of the class token.
    """

    num_heads = ARCH['num_heads']

    def __init__(self, tokens, grid, is_mean=False):
        super().__init__()
        self.tokens, self.grid, self.is_mean = tokens, grid, is_mean
        self.embed_dims = tokens['train'][0].shape[-1]

    def forward(self, images):
        split, ids = self.at
        cls_token, patches = (t[ids] for t in self.tokens[split])
        return patches.mean(1) if self.is_mean else cls_token, patches


class DiverseAfterBlur(PartLearner):
    """Eq. 6 on the maps that the decoder gets."""

    def loss(self, images):
        losses = super().loss(images)
        maps = self.normalised(self.attend(images)[0])
        blurred = blur_maps(maps.unflatten(-1, (self.grid, self.grid)), self.blur_kernel)
        change = diversity_loss(blurred.flatten(2)) - diversity_loss(maps)
        return dict(losses, loss=losses['loss'] + self.diversity_weight * change)


class Scaled(PartLearner):
    """Logits over sqrt(D), as in attention."""

    def attend(self, images, seen=None):
        logits, *tokens = super().attend(images, seen)
        return logits / tokens[0].shape[-1] ** .5, *tokens


class Within(PartLearner):
    """Two parts first, of which the one less at the border is the object; then parts within it.

    The first part is the background; the softmax of the others is multiplied with the object's map.
    """

    def attend(self, images, seen=None):
        with torch.no_grad():
            maps = self.first.normalised(self.first.attend(images)[0])
            which = border_share(maps, self.grid).argmin(1)
            object_ = maps[torch.arange(len(maps)), which, None].clamp(1e-6, 1 - 1e-6)
        logits, *tokens = super().attend(images, seen)
        inside = logits[:, 1:].log_softmax(1) + object_.log()
        return torch.cat([(1 - object_).log(), inside], 1), *tokens


KINDS = dict(PartLearner=PartLearner, DiverseAfterBlur=DiverseAfterBlur, Scaled=Scaled,
             Within=Within)


def data(split):
    """All images (N, 3, 64, 64), normalised, part labels (N, 64, 64) and classes (N,)."""
    pipeline = [dict(type='LoadImageFromFile'),
                dict(type='mmpretrain.ResizeEdge', scale=64, edge='short', backend='pillow',
                     interpolation='bicubic'),
                dict(type='mmpretrain.CenterCrop', crop_size=64),
                dict(type='semmae.LoadPartTruth'), dict(type='semmae.PackImage')]
    found = DATASETS.build(dict(
        type='semmae.PartDataset', data_root=str(TOY / split), pipeline=pipeline,
        label_root=str(TOY / 'part_labels' / split)))
    batch = default_collate([found[i] for i in range(len(found))])
    preprocess = MODELS.build(dict(type='semmae.ImagePreprocessor'))
    folders = [Path(found.get_data_info(i)['img_path']).parent.name for i in range(len(found))]
    classes = torch.tensor([sorted(set(folders)).index(folder) for folder in folders])
    return preprocess(dict(inputs=batch['inputs']))['inputs'], batch['part_labels'], classes


def teach(vit, images, classes, epochs=5):
    """Train a ViT with class labels, by its class token."""
    head = torch.nn.Linear(vit.embed_dims, int(classes.max()) + 1)
    parameters = [*vit.requires_grad_(True).parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=.05)
    for _ in range(epochs):
        for ids in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(vit(images[ids])[-1][:, 0]), classes[ids]).backward()
            optimizer.step()
    vit.requires_grad_(False)


def features(images, classes, encoder, seed, grid):
    """{split: (class tokens (N, D), patch tokens (N, L, D))}, and the encoder file's hash."""
    path = ENCODERS[encoder] and Path(ENCODERS[encoder].format(seed=seed))
    torch.manual_seed(seed)
    model = MODELS.build(dict(type='semmae.PartEncoder', backbone=VIT, grid=grid,
                              checkpoint=path and str(path)))
    model.init_weights() if path else model.backbone.init_weights()
    if encoder == 'labels':
        teach(model.backbone, images['train'], classes)
    out = {split: [torch.cat(t) for t in zip(*map(model, x.split(100)))]
           for split, x in images.items()}
    return out, sha256(path) if path else None


def learn(tokens, images, seed, kind='PartLearner', grid=12, steps=280, lr=4e-3, is_mean=False,
          **settings):
    """A trained learner on cached tokens; the schedule of mm_configs/mini/semmae_parts_mini.py."""
    torch.manual_seed(seed)
    encoder = dict(type='semmae.CachedTokens', tokens=tokens, grid=grid, is_mean=is_mean)
    model = KINDS[kind](encoder, **dict(dict(num_parts=6, blur_kernel=3, decoder=CONV),
                                        **settings))
    if kind == 'Within':
        model.first = learn(tokens, images, seed, grid=grid, num_parts=2, decoder=PAINT)
        model.first.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = lr * min(1, (step + 1) / 20) * max(.01, 1 - step / steps)
        ids = torch.randint(len(images), (32,), generator=draw)
        look(model, 'train', ids)
        optimizer.zero_grad()
        model.loss(images[ids])['loss'].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
    return model.eval()


def look(model, split, ids):
    """Set the images that a learner, and the learner inside it, see next."""
    model.encoder.at = split, ids
    if hasattr(model, 'first'):
        look(model.first, split, ids)


@torch.no_grad()
def measure(model, images, labels):
    metric = PartSegmentation()
    for ids in torch.arange(len(images)).split(100):
        look(model, 'val', ids)
        for i, parts in zip(ids, model.segment(images[ids])[0]):
            metric.process(None, [dict(sample_idx=i, part_ids=parts, num_parts=model.num_parts,
                                       part_labels=labels[i])])
    return metric.compute_metrics(metric.results)


def table(records):
    """Markdown: variants in their order, mean +- spread (n), and what each was trained in."""
    rows = pd.DataFrame([dict(method=r['method'], metric=r['metric'], value=r['value'])
                         for r in records])
    cells = rows.groupby(['method', 'metric']).value.agg(list).map(cell).unstack('metric')
    order = [v for v in VARIANTS if v in cells.index]
    text = cells.loc[order, list(METRICS)].rename(columns=METRICS).to_markdown() + '\n'
    below = origin_sentence(records)
    return text + (f'\n{below}\n' if below else '')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', metavar='WORD', help='variants with one of the words')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / 'results.jsonl'
    done = {(r['method'], r['seed']) for r in read_results([args.out])[0]}
    (train, _, classes), (val, labels, _) = data('train'), data('val')
    cache, start = {}, time.time()
    for seed in args.seeds:
        cache.clear()
        for name, setting in VARIANTS.items():
            setting = dict(setting)
            if (name, seed) in done or args.only and not any(w in name for w in args.only):
                continue
            encoder, grid = setting.pop('encoder', 'mae'), setting.get('grid', 12)
            if ENCODERS[encoder] and not Path(ENCODERS[encoder].format(seed=seed)).exists():
                print(f'left out: {name}, no {ENCODERS[encoder].format(seed=seed)}')
                continue
            if (encoder, grid) not in cache:
                cache[encoder, grid] = features(
                    dict(train=train, val=val), classes, encoder, seed, grid)
            tokens, encoder_hash = cache[encoder, grid]
            began = time.time()
            values = measure(learn(tokens, train, seed, **setting), val, labels)
            for metric in METRICS:
                append_result(results, dict(
                    row=f'parts_inside/{name}', method=name, recipe=name,
                    task='parts_inside', dataset='toy', split='val', metric=metric,
                    value=values[metric], unit='', seed=seed,
                    protocol=dict(grid=grid, num_parts=setting.get('num_parts', 6),
                                  encoder=encoder, split_images=len(val)),
                    config='benchmarks/parts_inside.py', checkpoint=None,
                    checkpoint_sha256=encoder_hash, git_commit=git_commit(), versions=versions(),
                    device=device(), wall_time_s=round(time.time() - began, 1), reduced=True,
                    reduced_why='toy set, mini encoder'))
            print(f'{time.time() - start:5.0f} s  seed {seed}  {name:40} '
                  + '  '.join(f'{k} {values[k]:.1f}' for k in METRICS), flush=True)
    text = table(read_results([args.out])[0])
    write_atomically(args.out / 'table.md', lambda f: f.write(text.encode()))
    print(text)


if __name__ == '__main__':
    main()
