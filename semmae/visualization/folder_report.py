"""The report of a folder of runs: results as tables, curves and pictures."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..files import require_folder, writable_file
from ..parts.learner import LearnerSource
from ..reporting.figures import loss_curves, read_scalars
from ..reporting.page import Section, section_of
from ..reporting.part_tables import health_of, part_sections, part_tables
from ..reporting.render import sections
from ..reporting.report import write_report
from ..reporting.tables import build_tables, measured
from ..results.mmengine_logs import read_everything
from ..results.results import HOW_TO_MAKE_RUNS
from .pictures import (
    MaskSource,
    draw_masks,
    draw_parts,
    draw_reconstructions,
    draw_segmentations,
)
from .report_notes import about, title_of

MINI = Path('mm_configs/mini')


class Plate(NamedTuple):
    """A picture of a report. name: of its file. seen: alternative text for blind readers.

    draw: called with (folder of a seed, folder of images, file to write). It raises
    FileNotFoundError if the seed lacks a file that the picture needs.
    """

    name: str
    heading: str
    caption: str
    seen: str
    draw: Callable


def reconstructions(recipe, method):
    """The plate of a pre-training."""
    return Plate(
        f'reconstructions_{recipe}', f'Reconstructions of {method}', 'Random masks, the same for '
        'both models. Predictions are of normalised patches; they are shown with the true mean and '
        'contrast of each patch, so colours are given and structure is predicted.',
        f'Four images, the quarter of their patches that {method} sees, and its reconstruction',
        lambda seed, images, path: draw_reconstructions(
            MINI / f'{recipe}_mini.py', newest(seed / recipe), images, path))


def curves(name, heading, caption, **rows):
    """The plate of the loss curves of rows {title: work directory below a seed}."""
    return Plate(name, heading, caption,
                 f'{heading} over iterations, one curve each: {", ".join(rows)}',
                 lambda seed, images, path: loss_curves(losses(seed, rows), path))


PLATES = (
    Plate('parts', 'Semantic parts',
          "Each row: the image, the encoder's own attention heads as parts, the learned parts, and "
          'the foreground score. A colour is one part in all images.',
          'Six images, each with its encoder heads, learned parts and foreground score as coloured '
          'maps', lambda seed, images, path: draw_parts(LearnerSource(
              MINI / 'semmae_parts_mini.py', newest(seed / 'parts')), images, path)),
    Plate('masks', 'Masks',
          'The part map that the masks are drawn from, a random mask, and part-guided masks at the '
          'beginning (alpha 0: three quarters of every part), in the middle and at the end (alpha '
          '1: whole parts). Grey patches are removed.',
          'Four images, each with its part map, a random mask and part-guided masks at alpha 0, '
          '0.5 and 1; masked patches are grey', lambda seed, images, path: draw_masks(MaskSource(
              MINI / 'semmae_p16_mini.py', part_store=existing(seed / 'store_8')), images, path)),
    reconstructions('mae_p16', 'MAE'), reconstructions('semmae_p16', 'SemMAE'),
    Plate('segmentations', 'Segmentations',
          'Images of the validation set, the true label map, and what UPerNet predicts after '
          'pre-training with either method, as stored beside the results. A colour is one class in '
          'all columns.', 'Validation images, each with its true label map and the maps predicted '
          'after MAE and after SemMAE, in the same colours',
          lambda seed, images, path: draw_segmentations({
              'after MAE': seed / 'ade20k/mae_p16',
              'after SemMAE': seed / 'ade20k/semmae_p16'}, path)),
    curves('loss', 'Pre-training loss', 'Mean squared error on masked, normalised patches. SemMAE '
           'rises with alpha, because its masks become harder; the two curves are not a '
           'comparison.', MAE='mae_p16', SemMAE='semmae_p16'),
    curves('loss_parts', 'Part learning loss', 'Reconstruction (Eq. 5) plus 0.03 times diversity '
           '(Eq. 6).', **{'part learning': 'parts'}),
    *(curves(f'loss_{task}', f'{title}: loss',
             'Training loss after pre-training with either method.',
             MAE=f'{task}/mae_p16', SemMAE=f'{task}/semmae_p16')
      for task, title in (('cub', 'Fine-grained fine-tuning'), ('ade20k', 'UPerNet'))))


def losses(seed, rows):
    """{title: [(iteration, loss)]} of those rows that log a loss."""
    read = {title: read_scalars(seed / row).get('loss', []) for title, row in rows.items()
            if (seed / row).is_dir()}
    found = {title: points for title, points in read.items() if points}
    if not found:
        raise FileNotFoundError('no loss logged in ' + ', '.join(
            str(seed / row) for row in rows.values()))
    return found


def newest(folder):
    """The last checkpoint of a work directory."""
    found = sorted(folder.glob('epoch_*.pth'), key=lambda p: int(p.stem.split('_')[1]))
    if not found:
        raise FileNotFoundError(f'no epoch_N.pth in {folder}. Run: bash tools/quickstart.sh')
    return found[-1]


def existing(path):
    """The path; FileNotFoundError if nothing is there."""
    if not path.exists():
        raise FileNotFoundError(f'no {path}')
    return path


def seeds_of(folder):
    """The folders of the seeds of a suite, in order; the folder itself if it has no seeds."""
    found = [path for path in folder.glob('seed*') if path.is_dir() and path.name[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[4:])) or [folder]


def draw_all(seeds, images, where):
    """(pictures for `write_report`, texts on omitted pictures).

    A picture is of the first seed that has the files that it needs.
    """
    pictures, left_out = [], []
    for plate in PLATES:
        path, why = where / f'{plate.name}.png', []
        for seed in seeds:
            try:
                plate.draw(seed, images, path)
            except FileNotFoundError as error:
                why.append(str(error))
                continue
            of = f' Of {seed.name}.' if len(seeds) > 1 else ''
            pictures.append((plate.heading, plate.caption + of, path, plate.seen))
            break
        else:
            left_out.append(f'{plate.heading} ({why[0]})')
    return pictures, left_out


def health(seeds):
    """[section] on the health of the first part learner with a health log; [] without one."""
    for path in (seed / 'parts/part_health.jsonl' for seed in seeds):
        if path.is_file():
            said, frame = health_of(path)
            of = f' ({path.parents[1].name})' if len(seeds) > 1 else ''
            return [section_of(frame, f'Health of part learning{of}', text=said)]
    return []


def write_folder_report(folder, images, out):
    """Write the report of ``folder`` to ``out``; returns the path.

    folder: of one seed of a suite, of a suite (``seed0``, ``seed1``, ...), or of results only.
    Tables and protocols are of all its results. A picture or curve without its files is left out,
    and a note names what is missing. Raises ValueError, and writes nothing, if there is nothing to
    show.
    """
    folder, out = Path(folder), Path(out)
    if not folder.exists():
        require_folder(folder, 'folder', HOW_TO_MAKE_RUNS)
    if not folder.is_dir():
        raise ValueError(f'{folder} is a file, expected the folder of a suite or of results')
    records, problems = read_everything([folder])
    seeds = seeds_of(folder)
    if records:  # before minutes of drawing; not for an empty folder
        writable_file(out, ('.html',))
    pictures, left_out = draw_all(seeds, images, out.parent / 'pictures')
    more = health(seeds)
    if not (records or pictures or more):
        raise ValueError(f'{folder} holds no result and no files for pictures'
                         f'{"".join(f"; {problem}" for problem in problems)}. Expected what '
                         'tools/run_suite.py leaves. Run: python tools/run_suite.py mini')
    writable_file(out, ('.html',))
    parts = part_sections(part_tables(records))
    if parts:
        parts.insert(0, Section('How good the parts are', text='Measured on images that have true '
                                'parts, whatever images the parts were learned from.'))
    notes = about(records)
    if not pictures:
        notes.append(f'No pictures and no curves: {folder} has none of the files they are made of.')
    elif left_out:
        notes.append(f'Left out: {"; ".join(left_out)}.')
    tables = [*sections(measured(build_tables(records))), *parts, *more]
    return write_report(out, title_of(folder, records), records, tables, pictures,
                        [*notes, *problems])
