"""Records of results, and the parsed page of a report, for several test files."""
import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from semmae.reporting.cells import DATASETS
from semmae.results.protocol import fingerprint
from semmae.results.results import append_result

VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


def a_record(row='linprobe/mae_p16', **changes):
    """A full-size result of MAE, as `read_results` returns it."""
    task, recipe = row.split('/', 1)
    side = 512 if task == 'ade20k' else 384 if recipe == 'vit384' else 224
    protocol = changes.setdefault('protocol', {'input_size': side, 'epochs': 90})
    return {'row': row, 'method': 'MAE', 'recipe': recipe, 'task': task,
            'dataset': DATASETS.get(task, 'ImageNet-1k'), 'split': 'val',
            'metric': 'mIoU' if task == 'ade20k' else 'accuracy/top1', 'value': 65.0, 'unit': '%',
            'seed': 0, 'fingerprint': fingerprint(protocol), 'config': 'c.py',
            'checkpoint': 'c.pth', 'checkpoint_sha256': f"{changes.get('seed', 0)}aa",
            'reduced': False, 'reduced_why': None, 'status': 'ok',
            'time': '2025-01-01T00:00:00+00:00', **changes}


IMAGES = [f'{name}/{k}.png' for name in ('cat', 'dog') for k in range(4)]
LABELS = np.repeat([0, 1], 4)
# Predicted classes of three runs: MAE of two seeds, SemMAE of one.
PREDICTED = {('mae_p16', 0): [0, 0, 0, 1, 1, 1, 1, 0], ('mae_p16', 1): [0, 0, 0, 0, 1, 1, 0, 0],
             ('semmae_p16', 0): [1, 0, 0, 0, 1, 1, 1, 1]}


def a_suite(folder):
    """The folder of a suite with two seeds of MAE and one of SemMAE; its images are beside it."""
    for k, name in enumerate(IMAGES):
        (folder / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (30 * k, 0, 0)).save(folder / 'images' / name)
    for (recipe, seed), predicted in PREDICTED.items():
        work = folder / 'runs' / f'seed{seed}' / 'linprobe' / recipe
        start = work / f'2025010{seed + 1}_000000'
        (start / 'vis_data').mkdir(parents=True)
        (work / 'predictions').mkdir()
        (work / 'config.py').write_text(
            "val_dataloader = dict(dataset=dict(type='mmpretrain.CustomDataset', data_prefix='', "
            f'data_root={str(folder / "images")!r}))\n')
        (start / f'{start.name}.log').write_text('a line\n')
        lines = [dict(iter=k, step=k, loss=9. - k + seed) for k in (1, 2, 3)]
        lines += [{'accuracy/top1': 10. * k + seed, 'step': k} for k in (1, 2)]
        (start / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
        np.savez(work / 'predictions' / 'p.npz', images=IMAGES, labels=LABELS, predicted=predicted,
                 score=np.linspace(.2, .9, 8, dtype=np.float32))
        append_result(work / 'results.jsonl', {**a_record(
            f'linprobe/{recipe}', reduced=True, reduced_why='few images', seed=seed,
            method=recipe.removesuffix('_p16').upper(),
            value=100 * float(np.mean(predicted == LABELS)), checkpoint_sha256=f'{recipe}{seed}',
            protocol={'epochs': 2, 'lr': .1} | ({'model.backbone.drop': 1} if recipe[0] == 's'
                                                else {})), 'predictions': 'predictions/p.npz'})
    return folder / 'runs'


class Page(HTMLParser):
    """Tags with attributes and open tags, texts with open tags, and wrongly closed tags."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.crossed = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.text.append((data.strip(), list(self.open)))

    def texts(self, tag):
        return [text for text, inside in self.text if tag in inside]

    def attributes(self, tag):
        return [attrs for found, attrs, _ in self.tags if found == tag]
