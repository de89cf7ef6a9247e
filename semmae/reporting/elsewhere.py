"""Tables besides those of the paper: numbers from other sources, and errata of the paper."""
import pandas as pd

from semmae.results.protocol import metric_name

from .names import DENSE
from .tables import load_numbers, read_numbers

COLUMNS = ['method', 'setting', 'measured on', 'value', 'source', 'certainty']
CERTAINTY = '''\
primary: read in the source itself. secondary: read in a copy of the source or in a quotation from \
it. unverified: without a known author or setting.
value: as printed by the source, with its spread and its number of runs where it gives them.'''
LEGEND = CERTAINTY + '''
How to read this: in fine-tuning at 16x16, SemMAE's gain over MAE ({finetune/semmae_p16} against \
{finetune/mae_p16}) is about one standard deviation between the seeds of MAE (0.08 as printed; \
0.09 as the sample standard deviation of its 83.63, 83.66, 83.52 and 83.46).
Its linear result at 16x16 equals that of a well-trained MAE ({linprobe/semmae_p16} against 65.1); \
the MAE of the paper has {linprobe/mae_p16}.
Its gain on ADE20K ({ade20k/semmae_p16} against {ade20k/mae_p16} mIoU) is within the seed noise of \
1 to 2 mIoU that others saw there with other models; in a later comparison it is below MAE (44.9 \
against 46.5).
Its large gains are at 8x8 patches ({linprobe/semmae_p8} and {finetune/semmae_p8}), for which no \
independent number was found.'''


def elsewhere_table() -> pd.DataFrame:
    """Numbers from other sources, one per line, with ``COLUMNS`` as texts.

    Source: later_numbers.csv of this folder.
    ``frame.attrs`` holds title, legend (texts) and bold (no positions: nothing here is ranked).
    """
    paper = load_numbers().drop_duplicates('row').set_index('row')['value']
    return _table(read_numbers('later_numbers.csv'),
                  "Numbers from elsewhere (not ours, not the paper's)", LEGEND.format(**paper))


def published_tables(frames) -> dict:
    """{'dense-published': DataFrame} of numbers of others for the dense table, or {}.

    frames: as `tables.build_tables` returns them. The numbers are those of `elsewhere_table` with
    the data set, metric and unit of a column of the dense table.
    """
    measures = frames[DENSE].attrs['measures'] if DENSE in frames else ()
    numbers = read_numbers('later_numbers.csv')
    found = numbers[[(line.dataset, metric_name(line.metric), line.unit) in measures
                     for line in numbers.itertuples()]]
    return {f'{DENSE}-published': _table(
        found, 'Dense table: numbers published by others; protocols differ', CERTAINTY)
    } if len(found) else {}


def _table(numbers, title, legend):
    """Lines of later_numbers.csv as a table with ``COLUMNS``. legend: one text per line."""
    frame = pd.DataFrame([[
        line.method, line.setting, f'{line.dataset}, {line.metric} in {line.unit}',
        line.value + (f' ± {line.spread}' if line.spread else '')
        + (f' (n={line.n})' if line.n else ''), line.source, line.certainty]
        for line in numbers.itertuples()], columns=COLUMNS, dtype=object)
    frame.attrs = dict(title=title, legend=legend.splitlines(), bold=[])
    return frame


def errata_table() -> pd.DataFrame:
    """Unclear points and misprints of the paper outside table cells, as texts.

    Source: errata.csv of this folder. Errata of cells are notes of these cells.
    """
    frame = read_numbers('errata.csv').astype(object)
    frame.attrs = dict(title='The paper: errata and open points outside the tables', legend=[],
                       bold=[])
    return frame
