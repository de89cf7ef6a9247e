"""Values in nested configs, by dotted keys as in ``--cfg-options``."""
from collections.abc import Callable, Iterator
from typing import Any

# Configs of mmengine, and the text of dumped ones, are untyped trees of dicts, lists and values.
Node = Any
Fields = dict[str, Any]


def at(node: Node, key: str) -> Node:
    """The value of a dotted key, or None. A part of it may be the index of a list."""
    for part in key.split('.'):
        if isinstance(node, (list, tuple)):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        else:
            node = node.get(part) if hasattr(node, 'get') else None
    return node


def numbered(node: Node, key: str) -> str:
    """``key`` with the index of a step in place of its type.

    'pipeline.LoadParts.store' is 'pipeline.3.store' where step 3 alone is a LoadParts. Raises
    ValueError if no step or several have the type.
    """
    parts: list[str] = []
    for part in key.split('.'):
        if isinstance(node, (list, tuple)) and not part.isdigit():
            found = [i for i, step in enumerate(node) if kind(step) == part]
            if len(found) != 1:
                raise ValueError(f'{key}: got {len(found)} steps of type {part}, expected 1')
            part = str(found[0])
        parts.append(part)
        node = at(node, part)
    return '.'.join(parts)


def walk(node: Node, is_whole: Callable[[Node], bool] = lambda value: False, prefix: str = ''
         ) -> Iterator[tuple[str, Node]]:
    """(dotted key, value) of everything below a node, outer values first.

    is_whole: returns True for values that are not entered.
    """
    pairs = node.items() if isinstance(node, dict) else (
        enumerate(node) if isinstance(node, (list, tuple)) else ())
    for key, value in pairs:
        yield f'{prefix}{key}', value
        if not is_whole(value):
            yield from walk(value, is_whole, f'{prefix}{key}.')


def leaves(node: Node) -> Iterator[tuple[str, Node]]:
    """(dotted key, value) of the innermost values; a list of plain values is one value."""
    return ((key, value) for key, value in walk(node, is_leaf) if is_leaf(value))


def is_leaf(value: Node) -> bool:
    """Whether a value holds no dict and no list of dicts or lists."""
    if isinstance(value, dict):
        return not value
    return not isinstance(value, (list, tuple)) or not any(
        isinstance(item, (dict, list, tuple)) for item in value)


def kind(node: Node) -> str:
    """A type without its scope: 'CheckpointHook' of dict(type='semmae.CheckpointHook')."""
    found = node.get('type') if isinstance(node, dict) else node
    return found.__name__ if isinstance(found, type) else str(found).rsplit('.', 1)[-1]


def plain(value: Node) -> Node:
    """Config values as plain dicts, lists and numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def short(step: Node) -> str:
    """``Resize(scale=(64, 64))`` of a config dict."""
    shown = ', '.join(f'{k}={v}' for k, v in sorted(step.items()) if k != 'type')
    return f'{kind(step)}({shown})'


def stated(cfg: Node) -> Fields:
    """What a config says about itself: ``recipe`` of a pre-training, else ``result``, else {}."""
    return cfg.get('recipe') or cfg.get('result') or {}


def full_size(cfg: Node) -> Fields:
    """The size of the paper that a config states, {} if none."""
    return stated(cfg).get('full') or {}


def innermost(loader: Node) -> Node:
    """The data set of a loader without the ones around it, {} if none."""
    data = at(loader, 'dataset') or {}
    while 'dataset' in data:
        data = data['dataset']
    return data
