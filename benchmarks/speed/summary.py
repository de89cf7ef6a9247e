"""The figures of speed that docs/speed.md quotes, from the records in benchmarks/results.

python benchmarks/speed/summary.py

A test compares the page with these lines.
"""
import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / 'results'


def rows_of(script, folder=RESULTS, **wanted):
    """The rows of ``speed_<script>.json`` that hold these values."""
    record = json.loads((Path(folder) / f'speed_{script}.json').read_text())
    found = [row for row in record['rows'] if all(row[k] == v for k, v in wanted.items())]
    if not found:
        raise ValueError(f'speed_{script}.json has no row with {wanted}; measure it again: '
                         f'python benchmarks/speed/{script}.py')
    return found


def only(script, folder, **wanted):
    row, = rows_of(script, folder, **wanted)
    return row


def number(value):
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def steps(folder):
    """(what, how fast, against what) of pre-training steps."""
    for size in ('ViT-B/16', 'ViT-B/8', 'mini'):
        for row in rows_of('step', folder, size=size):
            if not row['name'].startswith('ours') or 'masks' in row['name']:
                continue
            against = f"{row['times_faster']:.2f} times mmpretrain's `MAE` in float32"
            if 'compiled' in row['name']:
                other = only('step', folder, size=size, name='mmpretrain, float32, compiled')
                against += f', {row["images_per_s"] / other["images_per_s"]:.2f} times it compiled'
            yield (f'pre-training step, {size}, {row["name"][6:]}',
                   f'{number(row["images_per_s"])} images/s',
                   f'{against}; {row["tflops"] / row["matrix_tflops"]:.0%} of the matrix rate')


def data(folder):
    """(what, how fast, against what) of reading images."""
    base = 'mmpretrain: load, crop, flip, pack'
    for name, what, other, replaced in (
            ('LoadRandomResizedCrop', 'random crops', base, "mmpretrain's load, crop, flip, pack"),
            ('LoadCenterCrop', 'flip-only recipe', 'ResizeEdge, CenterCrop, FlipWithParts, '
             'PackImage', 'the steps it replaces'),
            ('LoadPacked', 'the same', base, "mmpretrain's load, crop, flip, pack")):
        row = only('data', folder, name=f'{name}, PackImage')
        times = row['images_per_s'] / only('data', folder, name=other)['images_per_s']
        yield (f'{what}, `{name}`, one core', f'{number(row["images_per_s"])} images/s',
               f'{times:.3g} times {replaced}; pixels differ by {row["mean_difference"]:.3f} '
               'of 255')


def masks(folder):
    """(what, how fast, against what) of masks and of steps with few patches."""
    for grid in ('14x14', '28x28'):
        row = only('masking', folder, name='part-guided, α = 0.5', size=grid)
        yield (f'part-guided masks of 256 images, {grid}', f'{row["ms"]:.2f} ms',
               f"{row['times_baseline']:.2f} times MAE's two sorts")
    row = only('masking', folder, name='ViT-B/8, 196 of 784')
    yield ('step with 196 of 784 patches of 8x8', f'{row["gflops_per_image"]:.1f} GFLOP an image',
           f'{row["times_baseline"]:.2f} times the time of 196 patches of 16x16')


def parts(folder):
    """(what, how fast, against what) of part learning, extraction and store."""
    for what in ('learning, images in memory', 'extraction, from files'):
        row = only('parts', folder, what=what, size='paper')
        epochs = f', {row["epochs"]} epochs' if row['epochs'] > 1 else ''
        yield (f'part {what}, 28x28', f'{number(row["per_s"])} images/s',
               f'{row["times_floor"]:.2f} times the floor; ImageNet-1k{epochs}: '
               f'{number(row["imagenet_hours"])} hours')
    yield ('part store, 28x28',
           f'{number(only("parts", folder, what="random reads")["per_s"])} reads/s', '')


def backbones(folder):
    """(what, how fast, against what) of training steps with other backbones, a line for each task.
    """
    names = {'paper': 'ViT-B/16', 'small': 'ViT-S/16', 'mini': 'mini'}
    lines: dict[tuple[str, str], dict[str, list]] = {}
    for row in rows_of('backbones', folder):
        if row['backbone'] != 'semmae.ViT':
            line = lines.setdefault((row['task'], row['size']), {})
            line.setdefault(row.get('mode', 'eager'), []).append(row)
    for (task, size), modes in lines.items():
        ratios = {mode: [f'{row["times_ours"]:.2f}' for row in rows]
                  for mode, rows in modes.items()}
        first, *rest = (f'{row["backbone"]}{" takes" * (not i)} {ratio}' for i, (row, ratio)
                        in enumerate(zip(modes['eager'], ratios['eager'])))
        compiled = f'; compiled {", ".join(ratios["compiled"])}' if 'compiled' in modes else ''
        yield (f'{task}, {names[size]}, step', '',
               f'{", ".join([first, *rest])} times as long as `semmae.ViT`{compiled}')


def probes(folder):
    """(what, how fast, against what) of probes on a feature store."""
    def faster(row):
        epochs = row['extrapolated_from_epochs']
        how = f'extrapolated from {epochs} epochs' if epochs else 'measured'
        return f'{number(row["times_ours"])} times faster than {row["what"]}, {how}'

    ours, one, all_at_once = (only('probes', folder, what=what) for what in (
        'both', 'one probe after the other, through the network',
        'all probes at once, through the network'))
    yield (f'{ours["probes"]} linear probes, {ours["images"]} images, {ours["epochs"]} epochs, '
           'encoding included', f'{number(ours["s"])} s', f'{faster(one)}; {faster(all_at_once)}')
    ours, one = (only('probes', folder, what=f'small case: {what}') for what in (
        'store and probes', 'one probe after the other'))
    yield (f'{ours["probes"]} linear probes, {ours["images"]} images, {ours["epochs"]} epochs, '
           'encoding included', f'{number(ours["s"])} s',
           f'{number(one["times_ours"])} times faster than one probe after the other, measured')
    ours, again = (only('probes', folder, what=what) for what in (
        'read all tokens from the store', 'decode and encode again'))
    yield ('reading all tokens from the feature store', f'{number(ours["images_per_s"])} images/s',
           f'{number(again["times_ours"])} times faster than decoding and encoding again')


def others(folder):
    """(what, how fast, against what) of downstream steps, backbones and tables."""
    for row in rows_of('downstream', folder):
        yield f'{row["name"]}, {row["patches"]} patches', f'{row["images_per_s"]:.3g} images/s', ''
    yield from backbones(folder)
    row = only('tables', folder, what='results to tables', runs=10_000)
    yield 'tables of 10,000 runs', f'{row["s"]:.1f} s', ''


def table(folder=RESULTS) -> str:
    """Markdown lines: what, how fast, against what."""
    is_there = (Path(folder) / 'speed_probes.json').is_file()
    sections = (steps, data, masks, parts, others, *[probes] * is_there)
    lines = [line for some in sections for line in some(folder)]
    return '\n'.join(['| | two CPU cores | against |', '|---|---|---|',
                      *(f'| {" | ".join(cells)} |' for cells in lines)])


if __name__ == '__main__':
    print(table())
