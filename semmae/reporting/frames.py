"""Which DataFrames `semmae tables` prints, and those of the Python API."""
import pandas as pd

from .elsewhere import elsewhere_table, errata_table, published_tables
from .long import COLUMNS, long_lines
from .names import TITLES
from .part_tables import part_tables
from .tables import build_tables, measured


def frames_of(records, chosen=(), is_measured=False, is_parts=False) -> dict:
    """{table: DataFrame} of records.

    chosen: table numbers or 'dense'; () for all. is_measured: only lines that hold a result; else
    numbers of others and errata follow, if all tables are asked for. is_parts: the tables of part
    quality instead.
    """
    if is_parts:
        return part_tables(records)
    frames = build_tables(records, tables=chosen or tuple(TITLES))
    if is_measured:
        return measured(frames)
    frames |= published_tables(frames)
    return frames if chosen else frames | dict(elsewhere=elsewhere_table(), errata=errata_table())


def long_frame(records) -> pd.DataFrame:
    """A line for each mean, with the columns of `long.COLUMNS`."""
    return pd.DataFrame(long_lines(records), columns=list(COLUMNS))
