"""Configs and their overrides, with a mistake in either found before anything is built."""
import contextlib
import difflib
import inspect
import re
from argparse import ArgumentError
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE

from . import dumped_config
from .length import follow_length, follow_length_of_file, length_of

# Keys that a config may leave out, beside what the class of their dict takes.
OPTIONAL = ('model.backbone.init_cfg.checkpoint', 'model.backbone.init_cfg.checkpoint_key',
            'result.recipe', 'result.method', 'result.selected_from',
            'optim_wrapper.clip_grad.max_norm')

# Top-level keys that mmengine's runner or this package reads. All others are variables of a config
# file, which are resolved before an option could change them.
READ = frozenset({
    'model', 'work_dir', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg',
    'val_cfg', 'test_cfg', 'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator',
    'test_evaluator', 'default_hooks', 'custom_hooks', 'data_preprocessor', 'load_from', 'resume',
    'launcher', 'env_cfg', 'log_processor', 'log_level', 'visualizer', 'default_scope',
    'randomness', 'experiment_name', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters',
    'activation_checkpointing', 'efficient_conv_bn_eval', 'custom_imports', 'compile', 'compiled',
    'recipe', 'result', 'allow_elastic'})

# Numbers that may also be a word: 'dynamic'.
ALSO_WORDS = ('loss_scale',)

# From a quote where a value may begin to the next one where it may end.
QUOTED = re.compile(r'''(?<![^\s,(\[])(['"]).*?\1(?=\s*(?:[,)\]]|$))''', re.DOTALL)


class Options(DictAction):
    """argparse's action for ``--cfg-options KEY=VALUE ...``: numbers, True, False, None, text,
    ``[a,b]`` and ``(a,b)`` and ``a,b``.

    As mmengine's, but for spaces, which stay where they are inside of a value (a path), and quotes:
    what stands in them is text, commas and digits too.
    """

    @staticmethod
    def _parse_iterable(val):
        val = val.strip()
        is_tuple = val.startswith('(') and val.endswith(')')
        inner = val[1:-1] if is_tuple or val.startswith('[') and val.endswith(']') else val
        pieces = split(inner)
        if inner == val and len(pieces) == 1:
            return val[1:-1] if QUOTED.fullmatch(val) else DictAction._parse_int_float_bool(val)
        values = [Options._parse_iterable(piece) for piece in pieces if piece.strip()]
        return tuple(values) if is_tuple else values

    def __call__(self, parser, namespace, values, option_string=None):
        for text in values or ():
            if '=' not in text:
                raise ArgumentError(self, f'found {text!r}, expected KEY=VALUE')
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError as error:
            raise ArgumentError(self, str(error)) from error


def split(text):
    """The pieces of ``text`` between commas that are in no bracket and in no quotes."""
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
        raise ValueError(f'found {text!r}, expected brackets that close; text with brackets '
                         "stands in quotes: KEY=\"'a(b'\"")
    return pieces


def read_config(path, options=None):
    """A config with overrides; a key that it does not have is an error, unless ``+`` adds it.

    options: {'model.backbone.img_size': 448, '+model.backbone.new': 1}. Raises FileNotFoundError,
    and ValueError for a file that is no config and for overrides that do not fit in.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}; the shipped ones are in mm_configs/')
    if Path(path).suffix != '.py':
        raise ValueError(f'{path}: a config of mmengine is a .py file, found '
                         f'{Path(path).suffix or "no suffix"}; the shipped ones are in mm_configs/')
    try:
        with names_of_the_forks():
            cfg = Config.fromfile(path)
    except Exception as error:  # it is a program, of the user
        raise ValueError(f'{path} cannot be read as a config: {type(error).__name__}: '
                         f'{error}') from error
    follow_length_of_file(cfg, path)
    length = length_of(cfg)[1]
    plain = {}
    for key, value in (options or {}).items():
        plain[key.removeprefix('+')] = value
        check_option(cfg, path, key, value)
    try:
        cfg.merge_from_dict(plain)
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        raise ValueError(f'--cfg-options {" ".join(plain)}: they do not fit into {path}: '
                         f'{error}') from error
    follow_length(cfg, length, options or {})
    return cfg


@contextlib.contextmanager
def names_of_the_forks():
    """``_base_ = 'mmseg::...'`` finds the fork, whose distribution has another name than mmengine
    expects; its import package has not."""
    before = MODULE2PACKAGE['mmseg']
    MODULE2PACKAGE['mmseg'] = 'mmseg'
    try:
        yield
    finally:
        MODULE2PACKAGE['mmseg'] = before


def read_dumped(path) -> Config:
    """The config that a run left in its work directory, as data: nothing in it is executed.

    Raises FileNotFoundError, and ValueError for a file that is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}; expected a work directory of tools/train.py')
    problems = []
    values = dumped_config.read_config(path, problems, tuple)
    if problems:
        raise ValueError(problems[0])
    return Config(values)


def check_option(cfg, path, key, value):
    """ValueError for a key that nothing reads, or a number that would become something else.

    A key may be missing in the config if the class that its dict configures takes it.
    """
    if key.startswith('+') or key in OPTIONAL:
        return
    node, top = cfg._cfg_dict, key.split('.')[0]
    if top in node and top not in READ:
        raise ValueError(resolved_already(cfg, path, key))
    *parents, last = key.split('.')
    for part in parents:
        node = step(node, part)
    if last in map(str, range(len(node))) if isinstance(node, (list, tuple)) else (
            isinstance(node, dict) and last in node):
        was = step(node, last)
    else:
        taken = parameters_of(node, cfg.get('default_scope', 'mmengine'))
        if last not in taken:
            known = [k for k, _ in dotted(cfg._cfg_dict)] + [
                '.'.join([*parents, name]) for name in taken]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'Did you mean {near[0]}' if near else f'At that place it has {names(node)}'
            raise ValueError(f'--cfg-options {key}: {path} has no such key. {hint}'
                             f'{"?" if near else "."} A new one is added by +{key}=VALUE')
        was = taken[last]
    kind = next((kind for kind in (bool, (int, float)) if isinstance(was, kind)), None)
    if kind and isinstance(value, str) and last not in ALSO_WORDS:
        raise ValueError(f'--cfg-options {key}: found the text {value!r}, expected '
                         f'{"True or False" if kind is bool else "a number"}, as {was} in {path}')


def resolved_already(cfg, path, key):
    """Why a variable of a config file cannot be set, and the keys that have its value."""
    value = cfg._cfg_dict.get(key)
    same = [k for k, v in dotted({k: v for k, v in cfg._cfg_dict.items() if k in READ})
            if type(v) is type(value) and v == value and not isinstance(v, (dict, list, bool))]
    named = f', which have its value: {", ".join(same[:6])}' if same else ''
    return (f'--cfg-options {key}: nothing reads this variable of {path} any more. Expected the '
            f'keys that it was put into{named}. Or write a config with _base_ = [{str(path)!r}] '
            'and these keys')


def parameters_of(node, scope):
    """{name: default or None} that the class of ``dict(type=...)`` takes; {} if there is none.

    Classes above it count as long as ``**kwargs`` are passed on.
    """
    found, cls = {}, class_of(node.get('type') if isinstance(node, dict) else None, scope)
    for base in cls.__mro__ if inspect.isclass(cls) else ():
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for parameter in list(parameters)[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, None if parameter.default is parameter.empty
                                 else parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def class_of(name, scope):
    """The class that is registered under a name, in whichever registry, or None."""
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


def names(node):
    return ', '.join(sorted(node)) if isinstance(node, dict) and node else 'no keys'


def step(node, part):
    if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return node.get(part) if isinstance(node, dict) else None


def dotted(node, prefix=''):
    """(key, value) of a config at any depth, keys as --cfg-options takes them."""
    pairs = node.items() if isinstance(node, dict) else (
        enumerate(node) if isinstance(node, (list, tuple)) else ())
    for key, value in pairs:
        yield f'{prefix}{key}', value
        yield from dotted(value, f'{prefix}{key}.')
