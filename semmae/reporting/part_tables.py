"""Part quality as tables: a row for each source of parts, mean, spread and n over seeds."""
import json
from pathlib import Path

import pandas as pd

from .page import Section, fragment, section_of, visible
from .provenance import origins
from .render import csv_text, markdown_text, render

# {title: {metric: its name in the table}}; all images have the same weight.
TABLES = {
    'Parts, all patches': {
        'parts/ARI': 'ARI', 'parts/NMI': 'NMI', 'parts/IoU': 'IoU',
        'parts/pooled_NMI': 'NMI, pooled', 'parts/parts_used': 'parts used'},
    'Parts, object patches only': {
        'parts/object_ARI': 'ARI', 'parts/object_NMI': 'NMI', 'parts/object_IoU': 'IoU',
        'parts/object_pooled_NMI': 'NMI, pooled'},
    'Parts at landmarks': {
        'landmarks/NMI': 'NMI', 'landmarks/ARI': 'ARI', 'landmarks/error': 'error, lower is better',
        'landmarks/constant_error': 'of the mean position',
        'landmarks/box_IoU': 'IoU with the box'},
    'Foreground ranking': {
        'foreground/AUC': 'AUC', 'foreground/kept': 'object kept',
        'foreground/kept_best': 'at best', 'foreground/precision': 'kept is object',
        'foreground/precision_chance': 'by chance'}}


def part_tables(records) -> dict:
    """{(title, data set, note): DataFrame} of the part-quality results among ``records``.

    Values are in percent (parts used: a number), as mean +- sample standard deviation (n) over
    seeds; one seed has no spread. Results under different protocols (encoder, grid, number of
    parts, view) have separate tables. The best of the first column is the first row.
    ``frame.attrs['origins']`` is '' or a note on results whose code is in no commit.
    """
    frames: dict[tuple[str, str, str], pd.DataFrame] = {}
    latest = {}
    for r in sorted(records, key=lambda r: r['time']):
        if r['task'] == 'parts' and r['status'] == 'ok':
            key = r['row'], r['metric'], r['seed'], conditions_of(r)
            latest[key] = r  # a retrained learner replaces the earlier one
    if not latest:
        return frames
    data = pd.DataFrame([dict(
        label=label_of(r, latest.values()), dataset=r['dataset'], metric=r['metric'],
        value=r['value'], conditions=conditions_of(r), note=note(r), record=r)
        for r in latest.values()])
    for title, metrics in TABLES.items():
        part = data[data.metric.isin(metrics)]
        for _, group in part.groupby('conditions', sort=True):
            values = group.groupby(['label', 'metric'], sort=False).value.agg(list)
            shown = [m for m in metrics if m in values.index.get_level_values('metric')]
            means = values.map(lambda v: sum(v) / len(v)).unstack('metric')
            order = means.sort_values(shown[0], ascending=False).index
            table = values.map(cell).unstack('metric').loc[order, shown].fillna('')
            table.index.name = 'parts of'
            dataset, said = group.dataset.iloc[0], group.note.iloc[0]
            if (title, dataset, said) in frames:  # they differ in a field that is not in the note
                said += ', ' + ', '.join(text for text in group.conditions.iloc[0][2:] if text)
            frames[title, dataset, said] = table.rename(columns=metrics)
            frames[title, dataset, said].attrs['origins'] = origin_sentence(group.record)
    return frames


def origin_sentence(records):
    """'' or a note on the results of a table whose code is in no commit."""
    texts = [text if text[0].isdigit() else f'all results {text}' for text in origins(records)]
    return f'Code: {"; ".join(texts)}.' if texts else ''


def conditions_of(record):
    """Texts that are equal for all results of one table; the first is the data set."""
    return (record['dataset'], record['split'], record['fingerprint'],
            f"reduced: {record.get('reduced_why')}" if record.get('reduced') else '')


def label_of(record, others):
    """The method of a record; with its recipe where another recipe has the same method."""
    recipes = {r['recipe'] for r in others if r['method'] == record['method']}
    return record['method'] if len(recipes) == 1 else f'{record["method"]} [{record["recipe"]}]'


def note(record):
    """The conditions of a number, in a few words."""
    protocol = record['protocol']
    grid, images = protocol.get('grid'), protocol.get('split_images')
    encoder = protocol.get('encoder')
    return ', '.join(text for text in (
        f'{protocol.get("num_parts")} parts', f'{grid}x{grid} patches', record['split'],
        f'{images} images in all' if images else '', f'encoder {encoder}' if encoder else '',
        'reduced runs' if record.get('reduced') else '') if text)


def cell(values):
    """'53.1 +- 1.2 (3)' of several values, '53.1' of one."""
    series = pd.Series(values, dtype=float)
    if len(series) == 1:
        return f'{series[0]:.1f}'
    return f'{series.mean():.1f} ± {series.std():.1f} ({len(series)})'


def render_parts(frames, format='markdown') -> str:
    """All tables as one text; format: one of `render.FORMATS`. Names are escaped."""
    if format == 'html':
        return fragment(part_sections(frames))
    if format == 'latex':
        tables = {f'parts-{k}': _plain(*item) for k, item in enumerate(frames.items(), 1)}
        return render(tables, format) if tables else ''
    text, write = WRITERS[format]
    parts = []
    for (title, dataset, note), frame in frames.items():
        shown = _with_names(frame).map(lambda cell: text(visible(cell)))
        heading, note, below = (text(visible(t)) for t in (
            f'{title}: {dataset}', note, frame.attrs.get('origins', '')))
        parts.append(write(heading, note, below, shown))
    return '\n'.join(parts)


def part_sections(frames) -> list[Section]:
    """The tables as sections of an HTML page."""
    return [section_of(_with_names(frame), f'{title}: {dataset}', level=3, text=note,
                       below=frame.attrs.get('origins', ''))
            for (title, dataset, note), frame in frames.items()]


def _with_names(frame):
    """A table whose first column is 'parts of'."""
    return frame.rename_axis(columns=None).reset_index()


def _plain(key, frame):
    """A table of parts in the form that `render` takes."""
    title, dataset, note = key
    below = frame.attrs.get('origins', '')
    frame = _with_names(frame).astype(object)
    frame.attrs = dict(title=f'{title}: {dataset}', legend=[t for t in (note, below) if t], bold=[])
    return frame


def health_of(path):
    """(whether a part learner has collapsed, DataFrame with a row for each epoch)."""
    try:
        return _health(Path(path).read_text(encoding='utf-8').splitlines())
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:
        raise ValueError(f'{path} is not a health log of part learning '
                         f'({type(error).__name__}: {error}). Train again') from None


def _health(texts):
    lines = [json.loads(text) for text in texts]
    frame = pd.DataFrame([{
        'epoch': h['epoch'], 'share of each part': ' '.join(f'{c:.0%}' for c in h['coverage']),
        "largest in its image": f'{h["largest_share"]:.0%}',
        'empty parts of an image': f'{h["num_empty"]:.1f}', 'entropy, nats': f'{h["entropy"]:.2f}',
        'mean cosine of two maps': f'{h["off_diagonal_cosine"]:.2f}',
        'variation explained': f'{h["explained"]:.0%}',
        'logits, standard deviation': f'{h["logit_std"]:.1f}'} for h in lines])
    said = lines[-1]['collapsed']
    return (f'Part learning has collapsed or failed: {"; ".join(said)}.' if said
            else 'Part learning has not collapsed.'), frame


WRITERS = {
    'markdown': (markdown_text, lambda title, note, below, frame: '\n'.join((
        f'**{title}** ({note})', '', frame.to_markdown(index=False, disable_numparse=True), '',
        *((below, '') if below else ())))),
    'csv': (csv_text, lambda title, note, below, frame: frame.assign(
        table=title, protocol=note, code=below).to_csv(index=False))}
