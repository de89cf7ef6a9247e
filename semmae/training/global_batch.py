"""The global batch of a training: images per process x processes x accumulated steps."""
import os

from mmengine.dist import get_world_size

from ..config.identity import accumulated_steps
from ..config.lookup import full_size


def world_size_of(launcher):
    """The number of processes that ``launcher`` started; they need not be connected."""
    if launcher == 'none':
        return get_world_size()
    return int(os.environ['SLURM_NTASKS' if launcher == 'slurm' else 'WORLD_SIZE'])


def stated_batch(cfg):
    """The global batch for the learning rate of a config, or None."""
    return full_size(cfg).get('batch_size')


def global_batch(cfg, processes):
    """The global batch of ``cfg`` on this number of processes."""
    return cfg.train_dataloader.batch_size * processes * accumulated_steps(cfg)


def nodes_of(processes):
    """The number of nodes that share ``processes``, from the launcher's environment."""
    return max(1, processes // int(os.environ.get('LOCAL_WORLD_SIZE') or processes))


def require_batch(cfg, processes, config, keep=False, accept=False, nodes=1):
    """ValueError if a pre-training would have another global batch than its recipe.

    The learning rate of a recipe belongs to its batch. ``recipe.own_batch=True``: the config has a
    batch and a learning rate of its own; its results are marked.
    keep: accumulate gradients to the recipe's batch; returns a line that says so, else ''.
    accept: any batch is allowed. nodes: share ``processes`` evenly.
    """
    if keep:
        return accumulate(cfg, processes)
    recipe, wanted = cfg.get('recipe'), stated_batch(cfg)
    found = global_batch(cfg, processes)
    if accept or not recipe or not wanted or recipe.get('own_batch') or found == wanted:
        return ''
    raise ValueError(
        f'{config}: the global batch would be {found} = {made_of(cfg, processes, nodes)}, the '
        f'recipe has {wanted} at this learning rate. Either '
        f'{other_numbers(cfg, processes, nodes)}; or {accumulation(cfg, processes)}; or add '
        '--accept-batch, which marks the results')


def made_of(cfg, processes, nodes=1):
    """The factors of a global batch, as '256 images x 16 processes on each of 2 nodes'."""
    each, steps = cfg.train_dataloader.batch_size, accumulated_steps(cfg)
    text = f'{each} images x {counted(processes // nodes, "process", "processes")}'
    return text + (f' on each of {nodes} nodes' if nodes > 1 else '') + (
        f' x {steps} accumulated steps' if steps > 1 else '')


def counted(n, one, many):
    """'1 process' or '2 processes'."""
    return f'{n} {one if n == 1 else many}'


def other_numbers(cfg, processes, nodes=1):
    """Text: the number of processes, or images of each, that gives the stated global batch."""
    wanted, each, steps = stated_batch(cfg), cfg.train_dataloader.batch_size, accumulated_steps(cfg)
    ways = []
    if wanted % (each * steps * nodes) == 0:
        n = wanted // (each * steps * nodes)
        ways.append(f'start {counted(n, "process", "processes")}'
                    + (' on each node' if nodes > 1 else ''))
    if wanted % (processes * steps) == 0:
        ways.append(f'set train_dataloader.batch_size={wanted // (processes * steps)}')
    return ' or '.join(ways) or (
        f'change train_dataloader.batch_size and the number of processes to a product of {wanted}')


def accumulation(cfg, processes):
    """Text: how --keep-batch gives the stated global batch."""
    wanted, each = stated_batch(cfg), cfg.train_dataloader.batch_size
    if wanted % (each * processes) == 0:
        return f'add --keep-batch, which accumulates {wanted // (each * processes)} steps'
    fits = next((b for b in range(min(each, wanted // (2 * processes)), 0, -1)
                 if wanted % (b * processes) == 0), None)
    return f'add --keep-batch with train_dataloader.batch_size={fits}, which accumulates ' \
        f'{wanted // (fits * processes)} steps' if fits else (
            f'add --keep-batch with a number of processes that divides {wanted}')


def accumulate(cfg, processes):
    """Set the accumulated steps that give the recipe's global batch on ``processes``.

    mmengine counts iterations before accumulation, so lengths and schedules in iterations are
    multiplied. Returns one line with the factors of the batch. ValueError if no whole number of
    steps gives the batch, or the config states none.
    """
    each, wanted = cfg.train_dataloader.batch_size, stated_batch(cfg)
    if not wanted:
        raise ValueError('--keep-batch: the config states no global batch, expected '
                         'full.batch_size in recipe or result; leave --keep-batch out')
    steps, rest = divmod(wanted, each * processes)
    if rest:
        raise ValueError(
            f'--keep-batch: got {each} images x {processes} processes = {each * processes}, '
            f'expected a divisor of the global batch {wanted} of the recipe; change '
            'train_dataloader.batch_size or the number of processes')
    cfg.optim_wrapper.accumulative_counts = steps
    norm = '' if 'BN' not in str(cfg.model) or steps == 1 else (
        f'; batch norm sees {each * (processes if "SyncBN" in str(cfg.model) else 1)} of them')
    if cfg.train_cfg.get('max_iters'):
        scale(cfg.train_cfg, steps, 'max_iters', 'val_interval')
        for schedule in cfg.param_scheduler:
            scale(schedule, steps, 'begin', 'end', 'T_max', 'milestones')
        scale(cfg.default_hooks.checkpoint, steps, 'interval')
    return (f'global batch {wanted} = {each} x {processes} processes x {steps} accumulated steps'
            f'{norm}')


def scale(node, steps, *keys):
    """Multiply these counts by ``steps``, except -1 (never) and None."""
    for key in keys:
        value = node.get(key)
        if isinstance(value, (list, tuple)):
            node[key] = [v * steps for v in value]
        elif value and value > 0:
            node[key] = value * steps
