"""Records of results, and the parsed page of a report, for several test files."""
from html.parser import HTMLParser

from semmae.reporting.cells import DATASETS
from semmae.results.protocol import fingerprint

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
