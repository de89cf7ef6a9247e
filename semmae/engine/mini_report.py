"""The report of a mini suite: what it trained, in tables, curves and pictures."""
from html import escape
from pathlib import Path

from ..evaluation.work_dirs import read_everything
from ..reporting.figures import loss_curves, read_scalars
from ..reporting.part_tables import health_of, part_tables, render_parts
from ..reporting.render import render
from ..reporting.report import plural, write_report
from ..reporting.tables import build_tables, measured
from .pictures import draw_masks, draw_parts, draw_reconstructions, draw_segmentations

MINI = Path('mm_configs/mini')
NOTE = ('These are reduced runs: a few thousand small images, a ViT of half a million parameters, '
        '{seeds}. They show that every stage runs and learns. They do not say whether SemMAE is '
        'better than MAE.')
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


def mini_report(folder, images, out):
    """Write the report of ``folder`` to ``out``; returns the path.

    folder: of one seed of a mini suite, of a suite (``seed0``, ``seed1``, ...), or of results only.
    Tables and protocols are of all its results. A picture or curve without its files is left out,
    and a note names what is missing.
    """
    folder, out = Path(folder), Path(out)
    records, problems = read_everything([folder])
    seeds = seeds_of(folder)
    pictures, left_out = draw_all(seeds, images, out.parent / 'pictures')
    tables = render(measured(build_tables(records)), 'html', links=True)
    parts = part_tables(records)
    more = health(seeds)
    if parts:
        more = ('<h2>How good the parts are</h2><p>Measured on images that have true parts, '
                'whatever images the parts were learned from.</p>'
                + render_parts(parts, 'html') + more)
    notes, number = [], len({record['seed'] for record in records})
    if any(record['reduced'] for record in records):
        notes.append(NOTE.format(seeds='one seed' if number == 1 else plural(number, 'seed')))
    if not pictures:
        notes.append(f'No pictures and no curves: {folder} has none of the files they are made of.')
    elif left_out:
        notes.append(f'Left out: {"; ".join(left_out)}.')
    return write_report(out, 'SemMAE, mini size', records, tables.replace(
        '</body>', f'{more}</body>'), pictures, [*notes, *problems])
