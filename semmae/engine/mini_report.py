"""The report of a mini suite: what it trained, in tables, curves and pictures."""
from pathlib import Path

from ..evaluation.results import read_results
from ..reporting.figures import loss_curves, read_scalars
from ..reporting.part_tables import health_of, part_tables, render_parts
from ..reporting.report import write_report
from ..reporting.tables import build_tables, measured, render
from .pictures import draw_masks, draw_parts, draw_reconstructions

MINI = Path('mm_configs/mini')
NOTE = ('These are reduced runs: a few thousand small images, a ViT of half a million parameters, '
        'one seed. They show that every stage runs and learns. They do not say whether SemMAE is '
        'better than MAE.')


def health(path):
    """HTML on what a part learner said of itself; nothing of one that left no such file."""
    if not path.is_file():
        return ''
    said, frame = health_of(path)
    return f'<h2>Health of part learning</h2><p>{said}</p>{frame.to_html(index=False)}'


def newest(folder):
    """The last checkpoint of a work directory."""
    found = sorted(folder.glob('epoch_*.pth'), key=lambda p: int(p.stem.split('_')[1]))
    if not found:
        raise FileNotFoundError(f'no epoch_N.pth in {folder}. Run: bash tools/quickstart.sh')
    return found[-1]


def mini_report(folder, images, out):
    """Write the report of ``folder``, one seed of the mini suite, to ``out``; returns the path."""
    folder, out = Path(folder), Path(out)
    where = out.parent / 'pictures'
    learner = MINI / 'semmae_parts_mini.py', newest(folder / 'parts')
    store = folder / 'store_8'
    pictures = []

    def add(heading, caption, name, draw):
        path = where / f'{name}.png'
        draw(path)
        pictures.append((heading, caption, path))

    add('Semantic parts', "Each row: the image, the encoder's own attention heads as parts, the "
        'learned parts, and the foreground score. A colour is one part in all images.', 'parts',
        lambda p: draw_parts(*learner, images, p, num=6))
    add('Masks', 'The part map that the masks are drawn from, a random mask, and part-guided masks '
        'at the beginning (alpha 0: three quarters of every part), in the middle and at the end '
        '(alpha 1: whole parts). Grey patches are removed.', 'masks',
        lambda p: draw_masks(MINI / 'semmae_p16_mini.py', None, images, p, part_store=store))
    for recipe, name in (('mae_p16', 'MAE'), ('semmae_p16', 'SemMAE')):
        add(f'Reconstructions of {name}', 'Random masks, the same for both models. Predictions are '
            'of normalised patches; they are shown with the true mean and contrast of each patch, '
            'so colours are given and structure is predicted.', f'reconstructions_{recipe}',
            lambda p, r=recipe: draw_reconstructions(MINI / f'{r}_mini.py', newest(folder / r),
                                                     images, p))

    def curves(names, key='loss'):
        read = {title: read_scalars(folder / row).get(key, []) for title, row in names.items()}
        return {title: points for title, points in read.items() if points}

    add('Pre-training loss', 'Mean squared error on masked, normalised patches. SemMAE rises with '
        'alpha, because its masks become harder; the two curves are not a comparison.', 'loss',
        lambda p: loss_curves(curves({'MAE': 'mae_p16', 'SemMAE': 'semmae_p16'}), p))
    add('Part learning loss', 'Reconstruction (Eq. 5) plus 0.03 times diversity (Eq. 6).',
        'loss_parts', lambda p: loss_curves(curves({'part learning': 'parts'}), p))
    for task, title in (('cub', 'Fine-grained fine-tuning'), ('ade20k', 'UPerNet')):
        add(f'{title}: loss', 'Training loss after pre-training with either method.',
            f'loss_{task}', lambda p, t=task: loss_curves(
                curves({'MAE': f'{t}/mae_p16', 'SemMAE': f'{t}/semmae_p16'}), p))
    records, problems = read_results([folder])
    tables = render(measured(build_tables(records)), 'html').replace('</body>', ''.join((
        '<h2>How good the parts are</h2><p>Measured on the toy set, which has true parts, whatever '
        'images they were learned from.</p>', render_parts(part_tables(records), 'html'),
        health(folder / 'parts/part_health.jsonl'), '</body>')))
    # The numbers of one test of parts share one protocol: listed once.
    listed = [r for r in records if r['task'] != 'parts' or r['metric'] == 'parts/ARI']
    return write_report(out, 'SemMAE, mini size', listed, tables, pictures, [NOTE, *problems])
