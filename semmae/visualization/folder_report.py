"""The report of a folder of runs: results as tables, curves and pictures."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..files import require_folder, writable_file
from ..parts.learner import LearnerSource
from ..reporting.classes import class_sections
from ..reporting.page import Section, section_of
from ..reporting.panels import curve_figures
from ..reporting.part_tables import health_of, part_sections, part_tables
from ..reporting.render import sections
from ..reporting.report import write_report
from ..reporting.runs import explorer, work_dirs
from ..reporting.tables import build_tables, measured
from ..results.mmengine_logs import read_everything
from ..results.results import HOW_TO_MAKE_RUNS
from .examples import Examples, class_names
from .pictures import (
    MaskSource,
    draw_masks,
    draw_parts,
    draw_reconstructions,
    draw_segmentations,
)
from .report_notes import about, title_of

MINI = Path('mm_configs/mini')
STAGES = ('parts', 'mae_p16', 'semmae_p16')  # work directories that `PLATES` are drawn from


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
            config_of(seed / recipe, f'{recipe}_mini.py'), newest(seed / recipe), images, path))


PLATES = (
    Plate('parts', 'Semantic parts',
          "Each row: the image, the encoder's own attention heads as parts, the learned parts, and "
          'the foreground score. A colour is one part in all images.',
          'Six images, each with its encoder heads, learned parts and foreground score as coloured '
          'maps', lambda seed, images, path: draw_parts(LearnerSource(
              config_of(seed / 'parts', 'semmae_parts_mini.py'), newest(seed / 'parts')),
              images, path)),
    Plate('masks', 'Masks',
          'The part map that the masks are drawn from, a random mask, and part-guided masks at the '
          'beginning (alpha 0: three quarters of every part), in the middle and at the end (alpha '
          '1: whole parts). Grey patches are removed.',
          'Four images, each with its part map, a random mask and part-guided masks at alpha 0, '
          '0.5 and 1; masked patches are grey', lambda seed, images, path: draw_masks(MaskSource(
              config_of(seed / 'semmae_p16', 'semmae_p16_mini.py'),
              part_store=existing(seed / 'store_8')), images, path)),
    reconstructions('mae_p16', 'MAE'), reconstructions('semmae_p16', 'SemMAE'),
    Plate('segmentations', 'Segmentations',
          'Images of the validation set, the true label map, and what UPerNet predicts after '
          'pre-training with either method, as stored beside the results. A colour is one class in '
          'all columns.', 'Validation images, each with its true label map and the maps predicted '
          'after MAE and after SemMAE, in the same colours',
          lambda seed, images, path: draw_segmentations({
              'after MAE': seed / 'ade20k/mae_p16',
              'after SemMAE': seed / 'ade20k/semmae_p16'}, path)))


def config_of(folder, mini):
    """The config of a work directory; that of the mini suite if it was not kept."""
    return folder / 'config.py' if (folder / 'config.py').is_file() else MINI / mini


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
        path, why = where / f'{plate.name}.svg', []
        for seed in seeds:
            try:
                plate.draw(seed, images, path)
            except (FileNotFoundError, ValueError) as error:
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
    where, dirs = out.parent / 'pictures', work_dirs(folder)
    pictures, left_out = draw_all(seeds, images, where)
    if not any(work.recipe.rpartition('/')[2] in STAGES for work in dirs):
        left_out = []  # a suite without the stages of these pictures
    curves = curve_figures(dirs, where)
    pictures += curves
    left_out += [] if curves else [f'Curves (no loss logged below {folder})']
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
    tables = [*sections(measured(build_tables(records))), *class_sections(records, class_names),
              *parts, *more]
    runs = explorer(records, dirs, out, class_names, Examples())
    return write_report(out, title_of(folder, records), records, tables, pictures,
                        [*notes, *problems], runs)
