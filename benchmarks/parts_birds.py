"""Parts of birds with a real encoder: learned, within the object, and the baselines.

python benchmarks/parts_birds.py --encoder FILE --out benchmarks/results/parts/birds
python benchmarks/parts_birds.py --encoder work_dirs/mae/epoch_6.pth --config \\
    mm_configs/tiny_imagenet/parts_mae.py --grid 8 --out FOLDER      (an encoder of ours)

FILE: of a DINOv2 ViT-S/14, or of the network --timm NAME. --data: CUB-200-2011 in its published
layout, all classes or some. The frozen encoder reads every image once; all learners train on its
cached tokens of the training images and are measured at the landmarks and boxes of the test images.
With --cache FILE the encoder's output is kept for later calls with the same arguments.
Appends a line for each variant, layer, seed and metric to OUT/results.jsonl, skips those that are
there, and writes OUT/table.md. Layers are counted from 1 in the names.
"""
import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from benchmarks.parts_inside import CONV, PAINT, look
from semmae.config.options import read_config
from semmae.evaluation.metrics import ForegroundQuality, LandmarkQuality
from semmae.files import sha256, write_atomically
from semmae.models import PartLearner
from semmae.models.part_encoder import Seen
from semmae.recording.environment import device, git_commit, versions
from semmae.registry import DATASETS, MODELS
from semmae.reporting.part_tables import cell, origin_sentence
from semmae.results.results import append_result, read_results

PIXELS = 32  # a side of the images that decoders reconstruct
METRICS = {'landmarks/NMI': 'NMI', 'landmarks/ARI': 'ARI', 'landmarks/error': 'landmark error',
           'landmarks/constant_error': 'of the mean position', 'foreground/AUC': 'foreground AUC'}
TOKENS = dict(decoder=dict(PAINT, paints_tokens=True), token_weight=1.)
OBJECT = dict(object=dict(by='border', layer='object'))  # of the layer --object-layer


def source(kind, num_parts, **options):
    """A baseline without training."""
    return dict(num_parts=num_parts, steps=0, parts=dict(type=f'semmae.{kind}Parts', **options))


# name: settings of the learner; of baselines the source of the parts
VARIANTS = {
    "learned, the paper's decoder, 6 parts": dict(num_parts=6, decoder=CONV),
    'learned, painted, 6 parts': dict(num_parts=6, decoder=PAINT),
    'learned, painted and tokens, 12 parts': dict(TOKENS, num_parts=12),
    "object first, the paper's decoder, 6 parts": dict(OBJECT, num_parts=7, decoder=CONV),
    'object first, painted and tokens, 12 parts': dict(OBJECT, **TOKENS, num_parts=13),
    # The weights were chosen at the landmarks of the training images, with seed 0 and layer 10.
    'object first, painted and tokens (weight 10), diversity 0.3, 12 parts': dict(
        OBJECT, **TOKENS | dict(token_weight=10.), diversity_weight=.3, num_parts=13),
    'k-means in each image, 12 parts': source('KMeans', 12),
    'k-means, one for all images, 12 parts': source('KMeans', 12, is_pooled=True),
    'object first, k-means in each image, 12 parts': source('KMeans', 13, **OBJECT),
    'object first, k-means, one for all images, 12 parts': source(
        'KMeans', 13, is_pooled=True, **OBJECT)}
# The same for every layer.
OF_NO_LAYER = {
    'head attention': source('Head', 6),
    'fixed cells, 6 parts': source('Cell', 6), 'fixed cells, 12 parts': source('Cell', 12),
    'fixed cells, 16 parts': source('Cell', 16),
    'Voronoi cells, the same in all images, 12 parts': source('Voronoi', 12, is_fixed=True),
    'Voronoi cells, 12 parts': source('Voronoi', 12)}
RANKINGS = {'near to the middle': dict(foreground='centre'),
            'unlike the border': dict(foreground='border'),
            'attention of the class token': dict(foreground='attention'),
            'unlike the border and attention': dict(foreground='both')}


@MODELS.register_module()
class CachedEncoder(torch.nn.Module):
    """The cached output of a frozen encoder for the images that `look` set last.

    cache: cls_token (N, D), tokens {layer: (N, L, D)}, attention {layer: (N, H, L)}, as float16.
    patches: (N, L, D), the patch tokens that it gives.
    """

    def __init__(self, cache, patches, grid):
        super().__init__()
        self.cache, self.patches, self.grid = cache, patches, grid
        self.embed_dims, self.num_heads = patches.shape[-1], cache['attention'][-1].shape[1]

    def forward(self, images):
        return tuple(self.look(images)[:2])

    def look(self, images, token_layers=(), attention_layers=()):
        _, ids = self.at

        def read(name, layers):
            return {layer: self.cache[name][layer][ids].float() for layer in layers}
        return Seen(self.cache['cls_token'][ids].float(), self.patches[ids].float(),
                    read('tokens', token_layers), read('attention', attention_layers))


def encoder_of(args, **options):
    """The frozen `PartEncoder` of the command line."""
    if args.config:
        cfg = dict(read_config(args.config).model.encoder)
    else:
        cfg = dict(type='semmae.PartEncoder', backbone=dict(
            type='semmae.TimmViT', model_name=args.timm, out_type='raw'))
    model = MODELS.build(dict(cfg, grid=args.grid, checkpoint=args.encoder, layer=-1) | options)
    model.init_weights()
    return model


@torch.no_grad()
def encode(args):
    """(cache of the encoder, small images (N, 3, 32, 32), truth of each image, {name: patches})."""
    models = {'token': encoder_of(args)} | ({'key': encoder_of(args, facet='key', layer=args.best)}
                                            if args.keys else {})
    model = models['token']
    layers = sorted({args.best, args.last, args.object_layer})
    data = DATASETS.build(dict(type='semmae.CUBParts', data_root=args.data, split='all', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow',
             interpolation='bicubic'),
        dict(type='mmpretrain.CenterCrop', crop_size=224),
        dict(type='semmae.LoadPartTruth'), dict(type='semmae.PackImage')]))
    preprocess = MODELS.build(dict(type='semmae.ImagePreprocessor'))
    small, truth, found = [], [], []
    chosen = range(0, len(data), -(-len(data) // args.limit) if args.limit else 1)
    for batch in DataLoader(torch.utils.data.Subset(data, chosen), 32, num_workers=0):
        images = preprocess(dict(inputs=batch.pop('inputs')))['inputs']
        seen = model.look(images, token_layers=layers, attention_layers=(-1,))
        found.append((seen.cls_token, *(seen.tokens[layer] for layer in layers),
                      seen.attention[-1],
                      *(m.look(images).patches for name, m in models.items() if name != 'token')))
        small.append(F.adaptive_avg_pool2d(images, PIXELS))
        truth += [{k: v[i] for k, v in batch.items()} for i in range(len(images))]
        print(f'\rencoded {len(truth)} of {len(chosen)}', end='', file=sys.stderr)
    cls_token, *tensors = (torch.cat(t).half() for t in zip(*found))
    tokens = dict(zip(layers, tensors))
    cache = dict(cls_token=cls_token, tokens=tokens, attention={-1: tensors[len(layers)]})
    patches = {f'layer {layer + 1}': tokens[layer] for layer in sorted({args.best, args.last})}
    if args.keys:
        patches[f'keys of layer {args.best + 1}'] = tensors[-1]
    return cache, torch.cat(small), truth, patches


def cached(args):
    """`encode`, from the file ``args.cache`` if it is there; ValueError if it has other inputs."""
    if not args.cache:
        return encode(args)
    made_of = {k: str(v) for k, v in vars(args).items() if k not in (
        'cache', 'out', 'seeds', 'steps', 'only')}
    if not args.cache.exists():
        found = made_of, *encode(args)
        write_atomically(args.cache, lambda f: torch.save(found, f))
    was, *found = torch.load(args.cache)
    if was != made_of:
        raise ValueError(f'{args.cache} was made with {was}, got {made_of}: give another --cache')
    return found


def learner(args, cache, patches, seed, steps=None, num_parts=6, decoder=CONV, object=None,
            **settings):
    """An untrained learner on cached tokens."""
    torch.manual_seed(seed)

    def with_layer(config):
        return config and dict(config, layer=args.object_layer)
    if settings.get('parts', {}).get('object'):
        settings['parts'] = dict(settings['parts'], object=with_layer(settings['parts']['object']))
    if settings.get('parts', {}).get('type') in ('semmae.KMeansParts', 'semmae.VoronoiParts'):
        settings['parts'] = dict(settings['parts'], seed=seed)
    encoder = dict(type='semmae.CachedEncoder', cache=cache, patches=patches, grid=args.grid)
    return PartLearner(encoder, decoder, num_parts=num_parts, object=with_layer(object),
                       blur_kernel=3, **settings)


def train(model, images, ids, seed, steps, lr=4e-3):
    """Steps of 32 training images; the schedule of mm_configs/mini/semmae_parts_mini.py."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = lr * min(1, (step + 1) / 20) * max(.01, 1 - step / steps)
        chosen = ids[torch.randint(len(ids), (32,), generator=draw)]
        look(model, None, chosen)
        optimizer.zero_grad()
        model.loss(images[chosen])['loss'].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def measure(model, images, truth, ids):
    """The metrics of `METRICS`; centres of pooled k-means come from the training images ``ids``."""
    if getattr(model.parts, 'is_pooled', False):
        def batches():
            for chosen in ids[::max(1, len(ids) // 256)].split(32):
                look(model, None, chosen)
                yield images[chosen]
        model.parts.fit(model, batches())
    metrics = {'landmarks': LandmarkQuality(), 'foreground': ForegroundQuality()}
    for chosen in torch.arange(len(images)).split(100):
        look(model, None, chosen)
        for i, parts, scores in zip(chosen.tolist(), *model.segment(images[chosen])):
            for metric in metrics.values():
                metric.process(None, [dict(truth[i], sample_idx=i, part_ids=parts,
                                           foreground=scores, num_parts=model.num_parts_out)])
    return {f'{name}/{key}': value for name, metric in metrics.items()
            for key, value in metric.compute_metrics(metric.results).items()}


def rows(args, patches):
    """{name: (settings, patches, layer in words, metrics)} of everything that is measured."""
    parts = [m for m in METRICS if m.startswith('landmarks')]
    last = f'layer {args.last + 1}'
    found = {}
    for layer, tokens in patches.items():
        variants = VARIANTS if not layer.startswith('keys') else {
            k: v for k, v in VARIANTS.items() if k.startswith('object first') and '12' in k}
        found |= {f'{name}, {layer}': (setting, tokens, layer, parts)
                  for name, setting in variants.items()}
    found |= {name: (setting, patches[last], last, parts) for name, setting in OF_NO_LAYER.items()}
    for layer in sorted({args.last, args.best, args.object_layer}):
        for name, how in RANKINGS.items():
            if how['foreground'] == 'border' or layer == args.last:
                where = '' if how['foreground'] == 'centre' else f', layer {layer + 1}'
                ranked = dict(steps=0, num_parts=2, parts=dict(
                    type='semmae.LearnedParts', **how,
                    **({} if how['foreground'] == 'centre' or layer == args.last
                       else dict(layer=layer))))
                found[f'{name}{where}'] = ranked, patches[last], last, ['foreground/AUC']
    return found


def table(records):
    """Markdown: variants in the order of this module, mean and spread, and their origin."""
    frame = pd.DataFrame([dict(method=r['method'], metric=r['metric'], value=r['value'])
                          for r in records])
    cells = frame.groupby(['method', 'metric']).value.agg(list).map(cell).unstack('metric')
    columns = [m for m in METRICS if m in cells]
    order = [*VARIANTS, *OF_NO_LAYER, *RANKINGS]
    text = cells.loc[sorted(cells.index, key=lambda name: (next(
        order.index(variant) for variant in sorted(order, key=len, reverse=True)
        if name.startswith(variant)), name)), columns].fillna('').rename(
        columns=METRICS).to_markdown() + '\n'
    below = origin_sentence(records)
    return text + (f'\n{below}\n' if below else '')


def parse(arguments=None):
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--encoder', required=True, help='its weights')
    parser.add_argument('--timm', default='vit_small_patch14_dinov2', help='its network')
    parser.add_argument('--config', help='of part learning, whose encoder it is; instead of --timm')
    parser.add_argument('--data', default='data/CUB_200_2011')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--cache', type=Path, help='file for the output of the encoder')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--grid', type=int, default=16)
    parser.add_argument('--best', type=int, default=9, help='layer of the tokens, from 0')
    parser.add_argument('--last', type=int, default=11, help='the last layer, from 0')
    parser.add_argument('--object-layer', type=int, default=7, help='layer that finds the object')
    parser.add_argument('--keys', action='store_true', help='also keys of the best layer')
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--limit', type=int, help='at most about this many images')
    parser.add_argument('--only', nargs='+', metavar='WORD', help='variants with one of the words')
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    results, start = args.out / 'results.jsonl', time.time()
    cache, images, truth, patches = cached(args)
    ids = torch.tensor([i for i, t in enumerate(truth) if t['is_train']])
    print(f'\nencoded in {time.time() - start:.0f} s', file=sys.stderr)
    done = {(r['method'], r['seed']) for r in read_results([args.out])[0]}
    weights = sha256(args.encoder)
    for seed in args.seeds:
        for name, (setting, tokens, layer, metrics) in rows(args, patches).items():
            if (name, seed) in done or args.only and not any(w in name for w in args.only):
                continue
            began = time.time()
            model = learner(args, cache, tokens, seed, **setting)
            train(model, images, ids, seed, setting.get('steps', args.steps))
            values = measure(model, images, truth, ids)
            for metric in metrics:
                append_result(results, dict(
                    row=f'parts_birds/{name}', method=name, recipe=name, task='parts_birds',
                    dataset='CUB', split='test', metric=metric, value=values[metric], unit='',
                    seed=seed, protocol=dict(
                        grid=args.grid, num_parts=model.num_parts_out, layer=layer,
                        encoder=args.config or args.timm, encoder_file=Path(args.encoder).name,
                        encoder_sha256=weights, object_layer=args.object_layer + 1,
                        split_images=len(images) - len(ids), steps=args.steps),
                    config='benchmarks/parts_birds.py', checkpoint=None, checkpoint_sha256=None,
                    git_commit=git_commit(), versions=versions(), device=device(),
                    wall_time_s=round(time.time() - began, 1), reduced=True,
                    reduced_why=f'{len(images)} images'))
            print(f'{time.time() - start:5.0f} s  seed {seed}  {name:60} '
                  + '  '.join(f'{m.split("/")[1]} {values[m]:.1f}' for m in metrics), flush=True)
    text = table(read_results([args.out])[0])
    write_atomically(args.out / 'table.md', lambda f: f.write(text.encode()))
    print(text)


if __name__ == '__main__':
    main()
