"""The settings that must be the same in a stopped run and its resumption."""
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from .identity import (
    accumulated_steps,
    images_fingerprint,
    parts_behind,
    per_update,
    reason_to_let_through,
    training_data,
)
from .length import schedules_of
from .lookup import Fields, Node, short
from .size import run_size


def run_identity(runner: Runner) -> Fields:
    """The fields that must be the same after a resume."""
    size = run_size(runner)
    shared = ('batch_size', 'norm_batch', 'num_train', 'epochs', 'iters')
    loader = getattr(getattr(runner, '_train_loop', None), 'dataloader', None)
    return dict(
        seed=runner.seed, **{k: size.get(k) for k in shared},
        # mmengine counts iterations and schedules in accumulated steps.
        accumulated_steps=accumulated_steps(runner.cfg), schedule=schedule_of(runner.cfg),
        parts=parts_behind(runner), world_size=get_world_size(),
        epoch_length=loader and len(loader),
        data=loader and images_fingerprint(training_data(runner)))


def changes(before: Fields, now: Fields, allow_elastic: bool = False) -> list[str]:
    """The reasons why a run cannot be resumed, a short text for each field; [] if it can.

    Fields that an older checkpoint does not have are not compared.
    allow_elastic: accepts another number of processes. The global batch must be the same, so
    batches, samples and masks are unchanged. Random numbers of the model (drop path, mixup)
    change; the pre-training of MAE has none.
    """
    wrong = [f'{k} {before[k]}, now {now[k]}' for k in now if k in before and before[k] != now[k]
             and not (k == 'world_size' and allow_elastic)]
    if len(wrong) == 1 and wrong[0].startswith('world_size'):
        wrong[-1] += ' (at the same global batch; --allow-elastic accepts that)'
    return wrong


def config_changes(before: Fields | None, now: Fields) -> list[str]:
    """'key: old -> new' for what differs; [] if the checkpoint has no such dict.

    A key that only one config has counts. Checkpoints without 'precision' recorded fewer keys; for
    these only common keys are compared. Keys of `LET_THROUGH` do not count.
    """
    known = {k: v for k, v in (before or {}).items() if not reason_to_let_through(k)}
    is_old = 'precision' not in known
    return [f'{k}: {known.get(k, "absent")} -> {now.get(k, "absent")}'
            for k in sorted({*known} & {*now} if is_old else {*known, *now})
            if known.get(k) != now.get(k)]


def schedule_of(cfg: Node) -> list[str]:
    """The learning-rate schedules, a short text each, counted in epochs or updates."""
    steps = accumulated_steps(cfg)
    return [short(s if s.get('by_epoch', True) else per_update(s, steps))
            for s in schedules_of(cfg)]
