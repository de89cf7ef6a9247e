"""What stands beside the tables: numbers of other people, and what the paper says unclearly."""
from pathlib import Path

import pandas as pd

COLUMNS = ['method', 'setting', 'measured on', 'value', 'source', 'certainty']
LEGEND = (
    'primary: read in the source itself. secondary: read in a copy of the source or a quotation '
    'from it. unverified: nobody says who measured it, or how.',
    'value: as printed by the source, with its spread and its number of runs where it gives them.',
    "How to read this: at 16x16 SemMAE's gain over MAE in fine-tuning (+0.08: 83.34 against 83.26) "
    'is about one standard deviation between the seeds of MAE (0.08 as printed; 0.09 as the sample '
    'standard deviation of its 83.63, 83.66, 83.52 and 83.46).',
    'Its linear result at 16x16 equals a well-run MAE (65.0 against 65.1); the MAE of the paper '
    'has 63.7.',
    'Its gain on ADE20K (+0.2 mIoU) lies inside the seed noise of 1 to 2 mIoU that others saw '
    'there, with other models; one later comparison has it below MAE (44.9 against 46.5).',
    'Its large gains are at 8x8 patches (68.7 and 84.5), for which no independent number was '
    'found.')


def elsewhere_table(path=None) -> pd.DataFrame:
    """Numbers from elsewhere, one a line, with ``COLUMNS`` as texts.

    path: default benchmarks/later_numbers.csv of this checkout.
    ``frame.attrs`` holds title, legend (texts) and bold (no positions: nothing here is ranked).
    """
    numbers = _table(path, 'later_numbers.csv')
    frame = pd.DataFrame([[
        line.method, line.setting, f'{line.dataset}, {line.metric} in {line.unit}',
        line.value + (f' ± {line.spread}' if line.spread else '')
        + (f' (n={line.n})' if line.n else ''), line.source, line.certainty]
        for line in numbers.itertuples()], columns=COLUMNS, dtype=object)
    frame.attrs = dict(title="Numbers from elsewhere (not ours, not the paper's)",
                       legend=list(LEGEND), bold=[])
    return frame


def errata_table(path=None) -> pd.DataFrame:
    """What is unclear or misprinted in the paper and belongs to no cell of a table, as texts.

    path: default benchmarks/errata.csv of this checkout. Errata of cells stand at these.
    """
    frame = _table(path, 'errata.csv').astype(object)
    frame.attrs = dict(title='The paper: errata and open points outside the tables', legend=[],
                       bold=[])
    return frame


def _table(path, name):
    path = Path(path or Path(__file__).parents[2] / 'benchmarks' / name)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: it is part of the repository, not of the '
                                'package. Install with `pip install -e .` from a checkout.')
    return pd.read_csv(path, dtype=str, keep_default_na=False)
