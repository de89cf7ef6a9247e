"""What a checkpoint says about its training, and what a run refuses to load or to resume."""
import torch

from ..checkpoints.load import listed, misfits
from ..config.identity import accumulated_steps, training_fields
from ..config.lookup import plain
from ..config.protocol import protocol_of
from ..config.resume import changes, config_changes, run_identity
from ..config.size import run_size
from ..models.layers import unwrapped
from .line import differences_of_task


def write_facts(meta, runner, weights):
    """Add to ``meta`` of a checkpoint what `require_fit`, a test and a downstream run read.

    weights: `Weights` of the run.
    """
    done = dict(epochs=meta['epoch'], iters=meta['iter'] // accumulated_steps(runner.cfg))
    size = run_size(runner)
    size.update({k: v for k, v in done.items() if k in size})  # completed, not planned
    meta['semmae'] = weights.describe(runner, size)
    if 'result' in runner.cfg:
        meta['semmae']['trained_on'] = runner.cfg.result.task
        meta['semmae_result'] = dict(
            size=size, kind=weights.kind(runner), differs=differences_of_task(runner),
            protocol=plain(protocol_of(runner, meta['semmae'], size)))
    meta['semmae_run'] = run_identity(runner)
    meta['semmae_config'] = training_fields(runner.cfg)


def require_fit(checkpoint, runner):
    """Raises ValueError for tensors that do not fit, and for a resume of another run."""
    meta, state = checkpoint.get('meta') or {}, checkpoint.get('state_dict', {})
    if odd := misfits({k: v for k, v in state.items() if torch.is_tensor(v)},
                      unwrapped(runner.model).state_dict()):
        raise ValueError(
            f'the checkpoint does not fit this config: {len(odd)} tensors differ:'
            f'{listed(odd)}\nFor a backbone alone use model.backbone.init_cfg.checkpoint')
    if runner._resume and 'semmae_run' in meta:
        wrong = changes(meta['semmae_run'], run_identity(runner), runner.cfg.get('allow_elastic'))
        wrong += config_changes(meta.get('semmae_config'), training_fields(runner.cfg))
        if wrong:
            raise ValueError(f'cannot resume: the run differs: {"; ".join(wrong)}. '
                             'Restore them, or start in another --work-dir')
