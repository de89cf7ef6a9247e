"""The report of a folder of runs: what was measured, in tables, curves and pictures."""
from collections import defaultdict
from html import escape
from pathlib import Path

from ..files import writable_file
from ..reporting.cells import network
from ..reporting.figures import loss_curves, read_scalars
from ..reporting.part_tables import health_of, part_tables, render_parts
from ..reporting.render import render
from ..reporting.report import plural, write_report
from ..reporting.tables import build_tables, measured
from ..results.mmengine_logs import read_everything
from .pictures import draw_masks, draw_parts, draw_reconstructions, draw_segmentations

MINI = Path('mm_configs/mini')
REDUCED = ('Reduced runs show that every stage runs and learns. They are not comparable with the '
           "paper's numbers and do not say which method is better at the paper's size.")
FEW = 6  # sizes or reasons that a note names one by one
CURVES = (  # (heading, caption, name of the picture, {title: row})
    ('Pre-training loss', 'Mean squared error on masked, normalised patches. SemMAE rises with '
     'alpha, because its masks become harder; the two curves are not a comparison.', 'loss',
     {'MAE': 'mae_p16', 'SemMAE': 'semmae_p16'}),
    ('Part learning loss', 'Reconstruction (Eq. 5) plus 0.03 times diversity (Eq. 6).',
     'loss_parts', {'part learning': 'parts'}),
    *((f'{title}: loss', 'Training loss after pre-training with either method.', f'loss_{task}',
       {'MAE': f'{task}/mae_p16', 'SemMAE': f'{task}/semmae_p16'})
      for task, title in (('cub', 'Fine-grained fine-tuning'), ('ade20k', 'UPerNet'))))


def seeds_of(folder):
    """The folders of the seeds of a suite, in order; the folder itself where it has none."""
    found = [path for path in folder.glob('seed*') if path.is_dir() and path.name[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[4:])) or [folder]


def health(seeds):
    """HTML on what a part learner said of itself, the first that left such a file."""
    for path in (seed / 'parts/part_health.jsonl' for seed in seeds):
        if path.is_file():
            said, frame = health_of(path)
            of = f' ({path.parents[1].name})' if len(seeds) > 1 else ''
            return (f'<h2>Health of part learning{escape(of)}</h2><p>{escape(said)}</p>'
                    f'{frame.to_html(index=False, border=0)}')
    return ''


def newest(folder):
    """The last checkpoint of a work directory."""
    found = sorted(folder.glob('epoch_*.pth'), key=lambda p: int(p.stem.split('_')[1]))
    if not found:
        raise FileNotFoundError(f'no epoch_N.pth in {folder}. Run: bash tools/quickstart.sh')
    return found[-1]


def plates(seed, images):
    """(heading, caption, what is seen, name, function that draws) of each picture of a seed."""
    yield ('Semantic parts', "Each row: the image, the encoder's own attention heads as parts, the "
           'learned parts, and the foreground score. A colour is one part in all images.',
           'Six images, each with its encoder heads, learned parts and foreground score as '
           'coloured maps', 'parts', lambda path: draw_parts(
               MINI / 'semmae_parts_mini.py', newest(seed / 'parts'), images, path, num=6))
    yield ('Masks', 'The part map that the masks are drawn from, a random mask, and part-guided '
           'masks at the beginning (alpha 0: three quarters of every part), in the middle and at '
           'the end (alpha 1: whole parts). Grey patches are removed.',
           'Four images, each with its part map, a random mask and part-guided masks at alpha 0, '
           '0.5 and 1; masked patches are grey', 'masks', lambda path: draw_masks(
               MINI / 'semmae_p16_mini.py', None, images, path,
               part_store=require(seed / 'store_8')))
    for recipe, name in (('mae_p16', 'MAE'), ('semmae_p16', 'SemMAE')):
        yield (f'Reconstructions of {name}', 'Random masks, the same for both models. Predictions '
               'are of normalised patches; they are shown with the true mean and contrast of each '
               'patch, so colours are given and structure is predicted.',
               f'Four images, the quarter of their patches that {name} sees, and its '
               'reconstruction', f'reconstructions_{recipe}',
               lambda path, recipe=recipe: draw_reconstructions(
                   MINI / f'{recipe}_mini.py', newest(seed / recipe), images, path))
    yield ('Segmentations', 'Images of the validation set, the true label map, and what UPerNet '
           'predicts after pre-training with either method, as stored beside the results. A colour '
           'is one class in all columns.', 'Validation images, each with its true label map and '
           'the maps predicted after MAE and after SemMAE, in the same colours', 'segmentations',
           lambda path: draw_segmentations({'after MAE': seed / 'ade20k/mae_p16',
                                            'after SemMAE': seed / 'ade20k/semmae_p16'}, path))
    for heading, caption, name, rows in CURVES:
        yield (heading, caption, f'{heading} over iterations, one curve each: {", ".join(rows)}',
               name, lambda path, rows=rows: loss_curves(curves(seed, rows), path))


def require(path):
    if not path.exists():
        raise FileNotFoundError(f'no {path}')
    return path


def curves(seed, rows):
    """{title: losses} of rows {title: work directory}; those that do not log any are left out."""
    read = {title: read_scalars(seed / row).get('loss', []) for title, row in rows.items()
            if (seed / row).is_dir()}
    found = {title: points for title, points in read.items() if points}
    if not found:
        raise FileNotFoundError('no loss logged in ' + ', '.join(
            str(seed / row) for row in rows.values()))
    return found


def draw_all(seeds, images, where):
    """(pictures, texts on those left out): each is of the first seed that has what it needs."""
    pictures, why = [], {}
    for seed in seeds:
        for heading, caption, seen, name, draw in plates(seed, images):
            path = where / f'{name}.png'
            if any(path == drawn for _, _, drawn, _ in pictures):
                continue
            try:
                draw(path)
            except FileNotFoundError as error:
                why.setdefault(heading, str(error))
            else:
                of = f' Of {seed.name}.' if len(seeds) > 1 else ''
                pictures.append((heading, caption + of, path, seen))
    headings = [heading for heading, *_ in plates(seeds[0], images)]
    pictures.sort(key=lambda picture: headings.index(picture[0]))
    drawn = {heading for heading, *_ in pictures}
    return pictures, [f'{heading} ({text})' for heading, text in why.items()
                      if heading not in drawn]


def few(texts, between=', '):
    """The first texts in their order, each once, and how many more there are."""
    texts = list(dict.fromkeys(texts))
    more = [f'and {len(texts) - FEW} more'] if len(texts) > FEW else []
    return between.join(texts[:FEW] + more)


def title_of(folder, records):
    """What a report is called: by the data sets of its results, else by its folder.

    Those of tests of parts count where there is no other.
    """
    others = [record for record in records if not record['task'].startswith('parts')]
    datasets = few(sorted({record['dataset'] for record in others or records}), '; ')
    return f'Results on {datasets}' if datasets else f'Pictures of {folder.resolve().name}'


def about(records):
    """Texts on what results say of themselves: seeds, images, networks, what is reduced and how."""
    seeds = len({record['seed'] for record in records if record['seed'] is not None})
    known = [network(record) for record in records]
    pixels = sorted({int(found['pixels']) for found in known
                     if str(found['pixels']).isdecimal()})
    networks = few(sorted(network_in_words(*pair) for pair in zip(records, known)
                          if pair[1]['arch']))
    said = [plural(seeds, 'seed') if seeds else '',
            f'images of {few(map(str, pixels))} pixels a side' if pixels else '',
            f'networks: {networks}' if networks else '']
    text = '; '.join(text for text in said if text)
    texts = [f'{text[0].upper()}{text[1:]}.'] if text else []
    reduced = [record for record in records if record['reduced']]
    if reduced:
        number = 'All results' if len(reduced) == len(records) else (
            f'{len(reduced)} of {len(records)} results')
        texts.append(f"{number} are reduced, smaller than the paper's. {reasons(reduced)}")
        texts += [REDUCED] if len(reduced) == len(records) else []
    return texts


def network_in_words(record, found):
    """'96 wide with 4 layers, 8x8 patches, 0.46 million parameters', as far as it is recorded."""
    parameters, patch = (record.get('model') or {}).get('parameters'), found['patch_size']
    return ', '.join(text for text in (
        str(found['arch']), f'{patch}x{patch} patches' if patch else '',
        f'{parameters / 1e6:.2g} million parameters' if parameters else '') if text)


def reasons(reduced):
    """In what results are reduced, a sentence for pre-training and for each task."""
    seen = defaultdict(list)
    for record in reduced:
        for text in filter(None, (record.get('reduced_why') or '').split('; ')):
            why = text.removeprefix('pre-training: ')
            seen['Pre-training' if why != text else
                 f"{record['task']} on {record['dataset']}"].append(why)
    order = sorted(seen, key=lambda name: (name != 'Pre-training', name))
    return few([f'{name}: {few(seen[name], "; or ")}.' for name in order], ' ') or (
        'The records do not say in what.')


def mini_report(folder, images, out):
    """Write the report of ``folder`` to ``out``; returns the path.

    folder: of one seed of a suite, of a suite (``seed0``, ``seed1``, ...), or of results only.
    Tables and protocols are of all its results. A picture or curve without its files is left out,
    and a note names what is missing. Nothing at all to show is a ValueError, and nothing is
    written.
    """
    folder, out = require_folder(Path(folder)), Path(out)
    records, problems = read_everything([folder])
    seeds = seeds_of(folder)
    if records:  # before minutes of drawing; for an empty folder no other is made
        writable_file(out, ('.html',))
    pictures, left_out = draw_all(seeds, images, out.parent / 'pictures')
    more = health(seeds)
    if not (records or pictures or more):
        raise ValueError(f'{folder} holds no result and nothing to make pictures of'
                         f'{"".join(f"; {problem}" for problem in problems)}. Expected what '
                         'tools/run_suite.py leaves. Run: python tools/run_suite.py mini')
    writable_file(out, ('.html',))
    tables = render(measured(build_tables(records)), 'html', links=True)
    parts = part_tables(records)
    if parts:
        more = ('<h2>How good the parts are</h2><p>Measured on images that have true parts, '
                'whatever images the parts were learned from.</p>'
                + render_parts(parts, 'html') + more)
    notes = about(records)
    if not pictures:
        notes.append(f'No pictures and no curves: {folder} has none of the files they are made of.')
    elif left_out:
        notes.append(f'Left out: {"; ".join(left_out)}.')
    return write_report(out, title_of(folder, records), records, tables.replace(
        '</body>', f'{more}</body>'), pictures, [*notes, *problems])


def require_folder(folder):
    if not folder.exists():
        raise FileNotFoundError(f'no folder at {folder}. Expected what tools/run_suite.py leaves. '
                                'Run: python tools/run_suite.py mini')
    if not folder.is_dir():
        raise ValueError(f'{folder} is a file, expected the folder of a suite or of results')
    return folder
