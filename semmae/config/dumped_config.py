"""Dumped mmengine configs, read as data and never executed.

A dumped config is Python text of plain values. `read_config` evaluates these and keeps everything
else as text; `dumped_protocol` selects what decides whether two runs can be compared.
"""

import ast
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from . import lookup
from .lookup import Fields, Node, at

# A limit, because variables that repeat other variables can give values of any size.
MOST_CONFIG_NODES = 1_000_000


def read_config(file: str | Path, problems: list[str], sequence: Callable[[list[Node]], Node] = list
                ) -> Fields:
    """The top-level values of a dumped config; {} and a new problem if it cannot be read.

    sequence: the type for tuples: list to compare configs, tuple to build from them.
    """
    try:
        text = Path(file).read_text(encoding='utf-8-sig', errors='replace')
        return _Literals(sequence).read(ast.parse(text))
    except OSError as error:
        problems.append(f'{file}: not read ({error.strerror})')
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problems.append(f'{file}: damaged, config not used ({type(error).__name__})')
    return {}


class _Literals:
    """Values of config text, which is not executed; anything but plain values becomes its text."""

    def __init__(self, sequence: Callable[[list[Node]], Node]) -> None:
        self.sequence = sequence
        self.names: Fields = {}
        self.sizes: dict[str, int] = {}
        self.nodes = 0

    def read(self, module: ast.Module) -> Fields:
        for statement in module.body:
            before = self.nodes
            if isinstance(statement, ast.Assign):
                value = self.value(statement.value)
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        self.names[target.id] = value
                        self.sizes[target.id] = self.nodes - before
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Dict):
                value = self.value(statement.value)  # for names that are not identifiers
                self.names |= value if isinstance(value, dict) else {}
        return self.names

    def value(self, node: ast.expr) -> Node:
        self.nodes += 1 + (self.sizes.get(node.id, 0) if isinstance(node, ast.Name) else 0)
        if self.nodes > MOST_CONFIG_NODES:
            raise ValueError('config too large')
        match node:
            case ast.Constant():
                return self.constant(node)
            case ast.List() | ast.Tuple() | ast.Set():
                return self.items(node)
            case ast.Dict():
                return self.mapping(zip(node.keys, node.values), node)
            case ast.Call(func=ast.Name(id='dict')):
                given = [(None, item) for item in node.args]
                return self.mapping(given + [(w.arg, w.value) for w in node.keywords], node)
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.UnaryOp(op=ast.USub()):
                value = self.value(node.operand)
                if isinstance(value, (int, float)):
                    return -value
        return ast.unparse(node)

    def items(self, node: ast.List | ast.Tuple | ast.Set) -> Node:
        items = [self.value(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return self.sequence(items)
        return sorted(items, key=str) if isinstance(node, ast.Set) else items

    def constant(self, node: ast.Constant) -> Node:
        value = node.value
        if isinstance(value, int) and value.bit_length() > 63:
            return hex(value)
        is_plain = value is None or isinstance(value, (bool, int, float, str))
        is_plain = is_plain and not (isinstance(value, float) and not math.isfinite(value))
        return value if is_plain else ast.unparse(node)

    def mapping(self, pairs: Iterable[tuple[Node, ast.expr]], node: ast.expr) -> Node:
        """A dict of its pairs; the value of a pair without a key is merged into it."""
        found: Fields = {}
        for key, expression in pairs:
            item = self.value(expression)
            if key is not None:
                found[str(self.value(key) if isinstance(key, ast.expr) else key)] = item
            elif isinstance(item, dict):
                found |= item
            else:
                return ast.unparse(node)
        return found


def dict_at(config: Node, key: str) -> Fields:
    """The dict of a dotted key, or {}."""
    value = at(config, key)
    return value if isinstance(value, dict) else {}


def kind(value: Node) -> str:
    """A type without its scope: 'ADE20KDataset' of dict(type='mmseg.ADE20KDataset')."""
    return lookup.kind(value) if at(value, 'type') else 'unknown'


def dataset_of(loader: Node) -> Fields:
    """The innermost dataset of a loader; the first one of a concatenation."""
    data = dict_at(loader, 'dataset')
    while inner := dict_at(data, 'dataset') or next(
            (item for item in at(data, 'datasets') or [] if isinstance(item, dict)), {}):
        data = inner
    return data


def dumped_split(data: Fields) -> str:
    """The split of a dataset, from the first of its fields that names one."""
    if isinstance(data.get('split'), str) and data['split']:
        return data['split']
    for key in ('ann_file', 'data_prefix', 'data_root'):
        found = re.findall(r'(?<![a-z])(trainval|train|val|test)', str(data.get(key) or '').lower())
        if found:
            return found[-1]
    return 'val'


def int_or_none(value: Node) -> int | None:
    """The value if it is an integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# Keys for paths of data and for metadata, which change no result.
NO_CONDITION = frozenset({'type', 'backend_args', 'file_client_args', 'meta_keys', 'init_cfg'})


def dumped_protocol(config: Fields, dataset: str, split: str, is_test: bool = False) -> Fields:
    """The part of a config that decides whether two runs may be compared.

    'recorded_by' makes it differ from every protocol that this project recorded.
    """
    model = dict_at(config, 'model')
    backbone, optim = dict_at(model, 'backbone'), dict_at(config, 'optim_wrapper')
    optimizer, paramwise = dict_at(optim, 'optimizer'), dict(dict_at(optim, 'paramwise_cfg'))
    train = at(dataset_of(at(config, 'train_dataloader')), 'pipeline')
    loaders = ('test_dataloader', 'val_dataloader')[::1 if is_test else -1]
    test = next((found for loader in loaders
                 if (found := at(dataset_of(at(config, loader)), 'pipeline'))), None)
    side = at(model, 'data_preprocessor.size') or at(config, 'data_preprocessor.size')
    decays = ('layer_decay_rate', 'decay_rate')
    heads = {key: model[key] for key in ('neck', 'head', 'decode_head', 'auxiliary_head')
             if model.get(key)}
    protocol = dict(
        recorded_by='mmengine', dataset=dataset, split=split,
        num_classes=_num_classes(heads), model=kind(model) if model else None,
        backbone={'type': kind(backbone), **_without(
            backbone, 'img_size', 'patch_size', 'drop_path_rate')} if backbone else None,
        heads={key: _texts(head, 'num_classes') for key, head in heads.items()} or None,
        input_size=_sizes([backbone.get('img_size'), side, *_crops(test)]),
        crop_size=_sizes(_crops(train)), patch_size=backbone.get('patch_size'),
        drop_path=backbone.get('drop_path_rate'), augmentation=_steps(train),
        test_pipeline=_steps(test), test_mode=model.get('test_cfg'),
        batch_augments=_texts(at(model, 'train_cfg.augments')),
        epochs=at(config, 'train_cfg.max_epochs'), iters=at(config, 'train_cfg.max_iters'),
        batch_size=at(config, 'train_dataloader.batch_size'),
        optimizer=kind(optimizer) if optimizer else None, lr=optimizer.get('lr'),
        weight_decay=optimizer.get('weight_decay'),
        optimizer_args=_without(optimizer, 'lr', 'weight_decay') or None,
        layer_decay=next((paramwise.pop(key) for key in decays if key in paramwise), None),
        paramwise=paramwise or None, schedule=_texts(config.get('param_scheduler')),
        precision={'AmpOptimWrapper': 'amp', 'OptimWrapper': 'float32'}.get(
            kind(optim), kind(optim)) if optim else None,
        clip_grad=optim.get('clip_grad'), accumulative_counts=optim.get('accumulative_counts'))
    return {field: value for field, value in protocol.items() if value is not None}


def _num_classes(heads: Fields) -> Node:
    """Classes of the head that predicts; the last one of a cascade."""
    head = heads.get('head') or heads.get('decode_head')
    return at(head[-1] if isinstance(head, list) and head else head, 'num_classes')


def _without(values: Fields, *names: str | None) -> Fields:
    return {key: value for key, value in values.items()
            if key not in names and key not in NO_CONDITION}


def _text(step: Node, *left_out: str | None) -> str:
    """``Resize(scale=[64, 64])`` of a config dict."""
    if not isinstance(step, dict):
        return str(step)
    shown = sorted(_without(step, *left_out).items())
    return f"{kind(step)}({', '.join(f'{key}={value}' for key, value in shown)})"


def _texts(steps: Node, *left_out: str) -> list[str] | None:
    """A text for each config dict of a list, or for a single one; None if there is none."""
    steps = [steps] if isinstance(steps, dict) else steps
    return [_text(step, *left_out) for step in steps] if isinstance(steps, list) else None


def _crop_key(step: Node) -> str | None:
    """The key of the size to which a transform crops; None if it does not crop."""
    is_crop = isinstance(step, dict) and 'Crop' in kind(step)
    keys = ('crop_size', 'scale', 'size') if is_crop else ()
    return next((key for key in keys if key in step), None)


def _crops(pipeline: Node) -> list[Node]:
    steps = pipeline if isinstance(pipeline, list) else []
    return [step[key] for step in steps if (key := _crop_key(step))]


def _steps(pipeline: Node) -> list[str] | None:
    """A pipeline as texts without crop sizes, which are fields of their own."""
    if not isinstance(pipeline, list):
        return None
    return [_text(step, _crop_key(step)) for step in pipeline]


def _sizes(sizes: list[Node]) -> Node:
    """The different sizes of a list, 224 as [224, 224]; a single size without the list."""
    sizes = [[size, size] if int_or_none(size) else size for size in sizes if size is not None]
    sizes = [size for i, size in enumerate(sizes) if size not in sizes[:i]]
    return sizes[0] if len(sizes) == 1 else sizes or None
