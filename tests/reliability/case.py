"""What each module of failures yields: cases, and controls that show that a case can fail.

A module has ``cases(root, quick)`` and ``controls(root, quick)``: a `Case` each, with files in
``root``. A control is a case whose ``ours`` runs with the mechanism switched off: it has to fail.
"""
from typing import NamedTuple


class Case(NamedTuple):
    """row: of the table of failures; ours, stock: callables that say what came out.

    They return True where the required outcome is reached, or a text, which then begins with 'ok'.
    stock: the same on stock code, measured; None where stock has nothing of the kind.
    """
    row: str
    name: str
    ours: callable
    stock: callable = None


def outcome(call):
    """(whether the required outcome is reached, a few words) of a callable of a `Case`.

    One that raises has not reached it.
    """
    try:
        found = call()
    except Exception as error:
        return False, f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    if isinstance(found, str):
        return found.startswith('ok'), found
    return bool(found), 'ok' if found else 'not the required outcome'
