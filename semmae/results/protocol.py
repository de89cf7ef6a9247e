"""The protocol under which a number was measured: when two numbers may be compared.

A protocol is a plain dict, which may be nested. Every field counts except ``DOCUMENTED``, so a
field that is added later makes old and new results differ.
"""

import hashlib
import json
import math
from typing import Any, NamedTuple

Fields = dict[str, Any]
Record = dict[str, Any]  # a line of results.jsonl

# Fields on where and how a number was made. They do not make two numbers incomparable.
# Top level only.
DOCUMENTED = frozenset({
    'versions', 'device', 'hostname', 'git_commit', 'launcher', 'world_size', 'num_workers',
    'work_dir', 'data_root', 'checkpoint', 'seed', 'wall_time_s', 'command'})

# Properties of the method, not of the measurement. They are compared like the rest
# and shown as part of the method.
METHOD_FIELDS = frozenset({'patch_size', 'tokens', 'pretraining', 'backbone'})
METHOD_PREFIX = 'model.backbone.'

# Differences are shown in this order. Fields that are not listed count as much and come last.
COMPARED = (
    'dataset', 'split', 'split_images', 'num_classes', 'input_size', 'crop_size', 'patch_size',
    'tokens', 'pretraining', 'epochs', 'iters', 'schedule', 'warmup', 'batch_size', 'optimizer',
    'lr', 'weight_decay', 'layer_decay', 'drop_path', 'augmentation', 'batch_augments',
    'test_pipeline', 'test_mode', 'pooling', 'frozen', 'rel_pos_bias', 'precision', 'model',
    'train_cfg', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'val_dataloader',
    'val_evaluator')

HIGHER_IS_BETTER = frozenset({'top1', 'top5', 'miou', 'macc', 'aacc', 'd1', 'd2', 'd3'})
LOWER_IS_BETTER = frozenset({'rmse', 'rmse_log', 'abs_rel', 'sq_rel', 'log10', 'silog'})

NOT_RECORDED = '(not recorded)'


def comparable(protocol: Fields) -> Fields:
    """The fields of a protocol that count, flattened to dotted names and JSON values.

    Tuples equal lists, 100.0 equals 100. None is a value: "off" differs from "not recorded".
    """
    flat: Fields = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f'{prefix}.{key}', inner)
        else:
            flat[prefix] = _canonical(value)

    for key, value in protocol.items():
        if str(key) not in DOCUMENTED:
            walk(str(key), value)
    return flat


def fingerprint(protocol: Fields) -> str:
    """Twelve hex digits, equal exactly when ``protocol_difference`` is empty."""
    text = json.dumps(comparable(protocol), sort_keys=True, separators=(',', ':'), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_of_the_method(field: str) -> bool:
    """Whether a field of a protocol belongs to the compared method, not to the measurement."""
    return field.split('.')[0] in METHOD_FIELDS or field.startswith(METHOD_PREFIX)


def protocol_difference(a: Fields, b: Fields) -> dict[str, tuple[Any, ...]]:
    """The fields on which two protocols differ: {field: (value in a, value in b)}."""
    return {field: tuple(values) for field, values in differing_fields([a, b]).items()}


def differing_fields(protocols: list[Fields]) -> dict[str, list[Any]]:
    """The fields on which protocols differ: {field: [value in each]}, ``COMPARED`` first."""
    flats = [comparable(protocol) for protocol in protocols]
    fields = sorted({field for flat in flats for field in flat}, key=_reading_order)
    different = {}
    for field in fields:
        if len({json.dumps(flat[field]) if field in flat else None for flat in flats}) > 1:
            different[field] = [flat.get(field, NOT_RECORDED) for flat in flats]
    return different


class Conditions(NamedTuple):
    """Results may be averaged (one row) or compared (two rows) only if all of this is equal."""

    reduced: bool
    task: str
    dataset: str
    split: str
    metric: str
    unit: str
    reduced_why: str
    fingerprint: str


def conditions(record: Record) -> Conditions:
    """The conditions under which a record was measured."""
    return Conditions(**{name: str(record.get(name) or '') for name in Conditions._fields[1:]},
                      reduced=record['reduced'])


def identity(record: Record) -> Fields:
    """The fields of the training that made a record's pre-trained weights; {} if not recorded."""
    found = (record.get('pretraining') or {}).get('identity')
    return found if isinstance(found, dict) else {}


def may_be_averaged(record: Record) -> tuple[Conditions, str]:
    """Equal for records that differ in the seed alone, so that their mean makes sense."""
    fields = identity(record)
    return conditions(record), fingerprint(fields) if fields else ''


def anchor(record: Record) -> str:
    """The name under which a report lists how the numbers of a line were measured."""
    quantity, training = may_be_averaged(record)
    key = json.dumps([record['row'], *quantity, *([training] if training else [])])
    return 'p-' + hashlib.sha256(key.encode()).hexdigest()[:12]


def same_quantity(a: Record, b: Record) -> bool:
    """Whether two records or cells give the same metric in the same unit.

    'accuracy/top1' is 'top1': the libraries prefix the evaluator's name, others do not.
    """
    return (metric_name(a['metric']) == metric_name(b['metric'])
            and is_percent(a) == is_percent(b) and (is_percent(a) or a['unit'] == b['unit']))


def metric_name(metric: str) -> str:
    """'top1' of 'accuracy/top1'."""
    return metric.rsplit('/', 1)[-1].lower()


def direction(metric: str) -> int:
    """1 for a metric where higher is better, -1 where lower is better, 0 if not known."""
    name = metric_name(metric)
    return (name in HIGHER_IS_BETTER) - (name in LOWER_IS_BETTER)


def is_percent(record: Record) -> bool:
    """Whether the value of a record or cell is in percent."""
    return record['unit'].strip().lower() in ('%', 'percent')


def _reading_order(field: str) -> tuple[int, str]:
    root = field.split('.', 1)[0]
    return (COMPARED.index(root) if root in COMPARED else len(COMPARED), field)


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value == int(value) else float(value)
    if hasattr(value, 'item'):  # a numpy or torch scalar
        return _canonical(value.item())
    return str(value)
