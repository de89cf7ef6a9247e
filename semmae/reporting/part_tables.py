"""Part quality as tables: a row for each source of parts, mean, spread and n over seeds."""
import pandas as pd

# {title: {metric: its name in the table}}; 1 image counts as much as any other.
TABLES = {
    'Parts, all patches': {
        'parts/ARI': 'ARI', 'parts/NMI': 'NMI', 'parts/IoU': 'IoU',
        'parts/pooled_NMI': 'NMI, pooled', 'parts/parts_used': 'parts used'},
    'Parts, object patches only': {
        'parts/object_ARI': 'ARI', 'parts/object_NMI': 'NMI', 'parts/object_IoU': 'IoU',
        'parts/object_pooled_NMI': 'NMI, pooled'},
    'Parts at landmarks': {
        'landmarks/NMI': 'NMI', 'landmarks/ARI': 'ARI', 'landmarks/error': 'error',
        'landmarks/constant_error': 'error of the mean', 'landmarks/box_IoU': 'IoU with the box'},
    'Foreground ranking': {
        'foreground/AUC': 'AUC', 'foreground/kept': 'object kept',
        'foreground/kept_best': 'at best', 'foreground/precision': 'kept is object',
        'foreground/precision_chance': 'by chance'}}


def part_tables(records) -> dict:
    """{(title, data set, note): DataFrame} of the part-quality results among ``records``.

    Values are in percent, as mean +- sample standard deviation (n) over seeds; one seed has no
    spread. Results under different protocols (grid, number of parts, view) stand in tables of
    their own.
    """
    frames = {}
    rows = [r for r in records if r['task'] == 'parts' and r['status'] == 'ok']
    if not rows:
        return frames
    data = pd.DataFrame([dict(
        method=r['method'], dataset=r['dataset'], metric=r['metric'], value=r['value'],
        seed=r['seed'], fingerprint=r['fingerprint'], protocol=note(r)) for r in rows])
    for title, metrics in TABLES.items():
        part = data[data.metric.isin(metrics)]
        for (dataset, _), group in part.groupby(['dataset', 'fingerprint'], sort=True):
            cells = group.groupby(['method', 'metric'], sort=False).value.agg(list)
            table = cells.map(cell).unstack('metric')
            table = table[[m for m in metrics if m in table]].rename(columns=metrics)
            best = cells.map(lambda v: sum(v) / len(v)).unstack('metric').iloc[:, 0]
            order = best.sort_values(ascending=False).index
            frames[title, dataset, group.protocol.iloc[0]] = table.loc[order].fillna('')
    return frames


def note(record):
    protocol = record['protocol']
    grid = protocol.get('grid')
    return f'{protocol.get("num_parts")} parts, {grid}x{grid} patches, {record["split"]}'


def cell(values):
    """'53.1 +- 1.2 (3)' of several values, '53.1' of one."""
    series = pd.Series(values, dtype=float)
    if len(series) == 1:
        return f'{series[0]:.1f}'
    return f'{series.mean():.1f} ± {series.std():.1f} ({len(series)})'


def to_markdown(frames):
    """All tables as Markdown, each below its title."""
    return '\n\n'.join(f'**{title}: {dataset}** ({note})\n\n{frame.to_markdown()}'
                       for (title, dataset, note), frame in frames.items())


def to_html(frames):
    """All tables as HTML, escaped."""
    return '\n'.join(
        f'<h3>{title}: {pd.io.formats.printing.pprint_thing(dataset)}</h3><p>{note}</p>'
        + frame.to_html(escape=True) for (title, dataset, note), frame in frames.items())
