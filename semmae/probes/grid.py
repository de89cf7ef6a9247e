"""Grids of settings: combinations of values, and checks of what a user gives."""
from collections.abc import Sequence
from itertools import product
from typing import Any

Setting = dict[str, Any]


def grid_of(**values: Any) -> list[Setting]:
    """All combinations of lists of values, the last name varying fastest."""
    return [dict(zip(values, chosen)) for chosen in product(*values.values())]


def by_key(settings: Sequence[Setting], *keys: str) -> dict[Any, list[int]]:
    """{value of the key, or tuple of the values of several: the numbers of its settings}."""
    groups: dict[Any, list[int]] = {}
    for number, setting in enumerate(settings):
        values = tuple(setting[key] for key in keys)
        groups.setdefault(values if len(keys) > 1 else values[0], []).append(number)
    return groups


def values_of(name: str, values: Any, least: float = 0., above: bool = True) -> tuple[Any, ...]:
    """A number or a list of numbers as a tuple.

    Raises ValueError for an empty list, and for a number below ``least`` or, if ``above``, equal.
    """
    found = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    wrong = [value for value in found
             if not isinstance(value, (int, float)) or value < least or above and value == least]
    if wrong or not found:
        raise ValueError(f'got {name}={values}, expected one or more numbers '
                         f'{"above" if above else "not below"} {least:g}')
    return found


def require_counts(**values: Any) -> None:
    """Raise ValueError for a value that is not a whole number from 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f'got {name}={value}, expected a whole number from 1')


def layers_of(wanted: Any, stored: tuple[int, ...]) -> tuple[int, ...]:
    """The last stored layer for None, all for 'all', else the tuple ``wanted``.

    Raises ValueError for a layer that is not stored.
    """
    found = stored[-1:] if wanted is None else stored if wanted == 'all' else tuple(wanted)
    if not found or not set(found) <= set(stored):
        raise ValueError(f'got layers={wanted}, expected any of: '
                         f"{', '.join(map(str, stored))}")
    return found
