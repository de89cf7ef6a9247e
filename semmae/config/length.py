"""Fits learning-rate schedules to the length of a training, or refuses the run.

Alpha (`ProgressHook`) and the last evaluation follow the length by themselves.
"""
import ast
import math
from pathlib import Path

from .lookup import Fields, Node, at


def schedules_of(cfg: Node) -> list[Node]:
    """The learning-rate schedules of a config as a list of dicts."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, dict) else list(found)


def length_of(cfg: Node) -> tuple[str, int | None]:
    """(key, length) of a training, as ('train_cfg.max_epochs', 16); ('', None) if there is none."""
    keys = ('train_cfg.max_epochs', 'train_cfg.max_iters')
    return next(((key, length) for key in keys if (length := at(cfg, key))), ('', None))


def in_unit_of(cfg: Node) -> list[tuple[str, Node]]:
    """[(key, schedule)] of the schedules in the unit of the training: epochs or iterations."""
    by_epoch = length_of(cfg)[0].endswith('max_epochs')
    return [(f'param_scheduler.{i}', s) for i, s in enumerate(schedules_of(cfg))
            if isinstance(s, dict) and bool(s.get('by_epoch', True)) == by_epoch]


def follow_length(cfg: Node, before: float | None, options: Fields) -> None:
    """Stretch the schedules of ``cfg`` to a length that an option changed; in place.

    before: the length of these schedules. Warm-up, decay and milestones keep their share of the
    run, in whole epochs or iterations and at least one; a run of one has no warm-up. If an option
    sets a value of a schedule, no schedule is changed.
    """
    now = length_of(cfg)[1]
    if not before or not now or now == before or any(
            key.lstrip('+').startswith('param_scheduler') for key in options):
        return
    schedules = [s for _, s in in_unit_of(cfg)]
    for schedule in schedules:
        schedule.update(stretched(schedule, before, now))
    empty = [s for s in schedules if s.get('begin', 0) >= s.get('end', math.inf)]
    if empty:
        cfg.param_scheduler = [s for s in schedules_of(cfg) if s not in empty]


def follow_length_of_file(cfg: Node, path: str | Path) -> None:
    """Stretch the schedules that a config file inherits to the length that it sets; in place."""
    names = {target.id for node in ast.parse(Path(path).read_text()).body
             if isinstance(node, ast.Assign) for target in node.targets
             if isinstance(target, ast.Name)}
    if {'_base_', 'train_cfg'} <= names and 'param_scheduler' not in names:
        ends = [s.get('end', math.inf) for _, s in in_unit_of(cfg)]
        follow_length(cfg, max((end for end in ends if end != math.inf), default=None), {})


def stretched(schedule: Node, before: float, now: int) -> Fields:
    """The counts of a schedule of ``before`` steps, changed for a training of ``now`` steps."""
    def place(value: float) -> float:
        inside = 0 < value < before
        value = round(value * now / before)
        return min(max(value, 1), now - 1) if inside and now > 1 else 0 if inside else value
    begin, end = schedule.get('begin', 0), schedule.get('end', math.inf)
    counts: Fields = {key: place(schedule[key]) for key in ('begin', 'end')
              if schedule.get(key) and schedule[key] != math.inf}
    for key in ('T_max', 'total_steps'):
        if schedule.get(key):
            goes_with_end = schedule[key] == min(end, before) - begin
            counts[key] = (min(counts.get('end', end), now) - counts.get('begin', begin)
                           if goes_with_end else max(1, round(schedule[key] * now / before)))
    if schedule.get('milestones'):
        counts['milestones'] = [place(m) for m in schedule['milestones']]
    return counts


def require_schedules(cfg: Node) -> None:
    """Raises ValueError for schedules that end before or after the training; it names the fix."""
    key, length = length_of(cfg)
    schedules = in_unit_of(cfg)
    if not length or not schedules:
        return
    last = max(schedule.get('end', math.inf) for _, schedule in schedules)
    wrong = [text for name, schedule in schedules for text in misfits(name, schedule, length)]
    if last < length:
        wrong.append(f'the last schedule ends at {last:g}; afterwards the rate stays constant')
    if not wrong:
        return
    fits = math.isfinite(last) and last != length and not any(
        misfits(name, schedule, last) for name, schedule in schedules)
    ways = [f'--cfg-options {key}={last:g}'] if fits else []
    ways.append('--cfg-options ' + ' '.join(
        f'{name}.{part}={value:g}' for name, schedule in schedules
        for part, value in fitted(schedule, length, last).items()))
    raise ValueError(f'{key} is {length}, and the learning rate does not follow: '
                     f'{"; ".join(wrong)}. Expected schedules that end with the training. '
                     f'Run with {" or with ".join(ways)}')


def misfits(name: str, schedule: Node, length: float) -> list[str]:
    """A text for each value of a schedule that does not fit a training of this length."""
    begin, end = schedule.get('begin', 0), schedule.get('end', math.inf)
    texts = []
    if length < end < math.inf:
        texts.append(f'{name}.end is {end:g}')
    span = min(end, length) - begin
    for part in ('T_max', 'total_steps'):
        value = schedule.get(part)
        if value is not None and not math.isclose(value, span):
            texts.append(f'{name}.{part} is {value:g}, expected {span:g}')
    late = [m for m in schedule.get('milestones') or () if m >= length]
    if late:
        texts.append(f'{name}.milestones has {late}')
    return texts


def fitted(schedule: Node, length: int, last: float) -> Fields:
    """Counts that make a schedule end with the training, if it is the last or ends late."""
    begin, end = schedule.get('begin', 0), schedule.get('end', math.inf)
    counts: Fields = {}
    if length < end < math.inf or end == last != math.inf:
        counts['end'] = length
        if begin >= length:
            counts['begin'] = begin = 0
    span = counts.get('end', min(end, length)) - begin
    return counts | {part: span for part in ('T_max', 'total_steps')
                     if schedule.get(part) is not None and schedule[part] != span}
