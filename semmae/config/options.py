"""Reads configs and overrides, and finds mistakes in them before anything is built."""
import difflib
import functools
import inspect
import re
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from . import dumped_config
from .length import follow_length, follow_length_of_file, length_of
from .lookup import Fields, Node, at, walk
from .normalization import normalize_for_backbone
from .reading import merge, require_config, unchecked_config

# Keys that may be set without being in the config, besides the arguments of their class.
OPTIONAL = ('model.backbone.init_cfg.checkpoint', 'model.backbone.init_cfg.checkpoint_key',
            'result.recipe', 'result.method', 'result.selected_from',
            'optim_wrapper.clip_grad.max_norm')

# Top-level keys that mmengine's runner or this package reads. All others are variables of a config
# file; they are resolved before an option can change them.
READ = frozenset({
    'model', 'work_dir', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg',
    'val_cfg', 'test_cfg', 'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator',
    'test_evaluator', 'default_hooks', 'custom_hooks', 'data_preprocessor', 'load_from', 'resume',
    'launcher', 'env_cfg', 'log_processor', 'log_level', 'visualizer', 'default_scope',
    'randomness', 'experiment_name', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters',
    'activation_checkpointing', 'efficient_conv_bn_eval', 'custom_imports', 'compile', 'compiled',
    'recipe', 'result', 'allow_elastic'})

# Keys whose number may also be a word, as 'dynamic'.
ALSO_WORDS = ('loss_scale',)

# From a quote that may begin a value to the next one that may end it.
QUOTED = re.compile(r'''(?<![^\s,(\[])(['"]).*?\1(?=\s*(?:[,)\]]|$))''', re.DOTALL)


class Options(DictAction):
    """argparse's action for ``--cfg-options KEY=VALUE ...``: numbers, True, False, None, text,
    ``[a,b]`` and ``(a,b)`` and ``a,b``.

    Unlike mmengine's action, it keeps spaces in a value (a path), and text in quotes stays text,
    with commas and digits.
    """

    @staticmethod
    def _parse_iterable(val: str) -> Node:
        val = val.strip()
        is_tuple = val.startswith('(') and val.endswith(')')
        inner = val[1:-1] if is_tuple or val.startswith('[') and val.endswith(']') else val
        pieces = split(inner)
        if inner == val and len(pieces) == 1:
            return val[1:-1] if QUOTED.fullmatch(val) else DictAction._parse_int_float_bool(val)
        values = [Options._parse_iterable(piece) for piece in pieces if piece.strip()]
        return tuple(values) if is_tuple else values

    def __call__(self, parser: ArgumentParser, namespace: Namespace,
                 values: str | Sequence[Node] | None, option_string: str | None = None) -> None:
        for text in values or ():
            if '=' not in text:
                raise ArgumentError(self, f'got {text!r}, expected KEY=VALUE')
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError as error:
            raise ArgumentError(self, str(error)) from error


def split(text: str) -> list[str]:
    """The pieces of a text, split at commas outside of brackets and quotes."""
    pieces, depth = [''], 0
    for char, seen in zip(text, QUOTED.sub(lambda found: '_' * len(found[0]), text)):
        depth += (seen in '([') - (seen in ')]')
        if seen == ',' and not depth:
            pieces.append('')
        else:
            pieces[-1] += char
        if depth < 0:
            break
    if depth:
        raise ValueError(f'got {text!r}, expected brackets that close; put text with brackets in '
                         "quotes: KEY=\"'a(b'\"")
    return pieces


def read_config(path: str | Path, options: Fields | None = None) -> Config:
    """A config with overrides; a key that it does not have is an error unless it starts with ``+``.

    options: {'model.backbone.img_size': 448, '+model.backbone.new': 1}. Raises FileNotFoundError,
    and ValueError for a file that is not a config and for overrides that do not fit.
    """
    path = require_config(path)
    cfg = unchecked_config(path)
    follow_length_of_file(cfg, path)
    length = length_of(cfg)[1]
    for key, value in (options or {}).items():
        check_option(cfg, path, key, value)
    merge(cfg, path, options)
    follow_length(cfg, length, options or {})
    normalize_for_backbone(cfg, [key.removeprefix('+') for key in options or {}])
    return cfg


@functools.cache
def config_of(path: str | Path) -> Config:
    """The config of a file, read once and shared: callers must not change it."""
    return read_config(path)


def read_dumped(path: str | Path) -> Config:
    """The config in the work directory of a run, read as data: nothing in it is executed.

    Raises FileNotFoundError, and ValueError for a file that is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}; expected a work directory of tools/train.py')
    problems: list[str] = []
    values = dumped_config.read_config(path, problems, tuple)
    if problems:
        raise ValueError(problems[0])
    return Config(values)


def check_option(cfg: Config, path: str | Path, key: str, value: Node) -> None:
    """Raises ValueError for a key that nothing reads, and for text in place of a number or switch.

    A key may be missing in the config if it is an argument of the class that its dict configures.
    """
    if key.startswith('+') or key in OPTIONAL:
        return
    values, top = cfg.to_dict(), key.split('.')[0]
    if top in values and top not in READ:
        raise ValueError(resolved_already(values, path, key))
    parent, _, last = key.rpartition('.')
    node = at(values, parent) if parent else values
    if last in map(str, range(len(node))) if isinstance(node, (list, tuple)) else (
            isinstance(node, dict) and last in node):
        was = at(node, last)
    else:
        taken = parameters_of(node, cfg.get('default_scope', 'mmengine'))
        if last not in taken:
            known = [k for k, _ in walk(values)] + [f'{parent}.{name}' for name in taken]
            near = difflib.get_close_matches(key, known, n=1)
            there = ', '.join(sorted(node)) if isinstance(node, dict) else ''
            hint = f'Did you mean {near[0]}' if near else f'It has {there or "no keys"} there'
            raise ValueError(f'--cfg-options {key}: {path} has no such key. {hint}'
                             f'{"?" if near else "."} To add a new key: +{key}=VALUE')
        was = taken[last]
    kind = next((kind for kind in (bool, (int, float)) if isinstance(was, kind)), None)
    if kind and isinstance(value, str) and last not in ALSO_WORDS:
        raise ValueError(f'--cfg-options {key}: got the text {value!r}, expected '
                         f'{"True or False" if kind is bool else "a number"}, as {was} in {path}')


def resolved_already(values: Fields, path: str | Path, key: str) -> str:
    """The message that a variable of a config file cannot be set; names keys with its value."""
    value = values.get(key)
    same = [k for k, v in walk({k: v for k, v in values.items() if k in READ})
            if type(v) is type(value) and v == value and not isinstance(v, (dict, list, bool))]
    named = f', which have its value: {", ".join(same[:6])}' if same else ''
    return (f'--cfg-options {key}: nothing reads this variable of {path} any more. Set the keys '
            f'that were made from it{named}. Or write a config with _base_ = [{str(path)!r}] '
            'and these keys')


def parameters_of(node: Node, scope: str) -> Fields:
    """{argument: default or None} of the class of ``dict(type=...)``; {} without a class.

    Base classes count as long as ``**kwargs`` are passed on.
    """
    found: Fields = {}
    cls = class_of(node.get('type') if isinstance(node, dict) else None, scope)
    for base in cls.__mro__ if inspect.isclass(cls) else ():
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(vars(base)['__init__']).parameters.values()
        for parameter in list(parameters)[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, None if parameter.default is parameter.empty
                                 else parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def class_of(name: Node, scope: str) -> Node:
    """The class that is registered under a name in any registry, or None."""
    if not isinstance(name, str):
        return name
    from mmengine import registry

    from .. import registry as ours  # noqa: F401  registers everything
    for root in vars(registry).values():
        if isinstance(root, registry.Registry):
            with root.switch_scope_and_registry(scope) as current:
                if (found := current.get(name)) is not None:
                    return found
    return None
