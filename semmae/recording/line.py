"""The line of results.jsonl that an evaluation gives."""
import hashlib
from pathlib import Path

from mmengine.hooks import CheckpointHook

from ..config.lookup import plain
from ..config.protocol import (
    is_dense,
    network_fields,
    probe_parts,
    protocol_of,
    protocol_of_test,
    split_of,
)
from ..config.recipes import task_differences
from ..config.size import model_facts, run_size, why_enlarged, why_reduced
from ..files import sha256
from ..models.layers import unwrapped
from ..results.predictions import recount
from ..results.protocol import metric_name
from .environment import device, git_commit, versions
from .weights import config_name


def require_result(cfg):
    """Raises ValueError for a config whose ``result`` lacks what a line needs."""
    for key in ('task', 'dataset', 'split', 'metric') if 'result' in cfg else ():
        value = cfg.result.get(key)
        if not isinstance(value, str) and not (key == 'metric' and value):
            raise ValueError(f'result.{key} is {value!r}, expected a text')


def line_of(runner, weights, checkpoint, trained=None):
    """The fields of a line, without the metric, its value and the predictions.

    weights: `Weights` of the run. checkpoint: path of the evaluated weights.
    trained: for a test, the facts on the training in the checkpoint (``meta['semmae_result']``).
    """
    cfg, result, of = runner.cfg, runner.cfg.result, weights.describe(runner)
    size = trained['size'] if trained else run_size(runner)
    protocol = protocol_of(runner, of, size, is_test=bool(trained))
    if trained:
        protocol = protocol_of_test(trained['protocol'], protocol)
    protocol |= split_of(runner) | selection(cfg, checkpoint)
    full = result.get('full', {})
    # A row of the dense table is named by its backbone, whatever the length of its pre-training.
    reduced_why = both(not is_dense(cfg) and of.get('reduced_why'), why_reduced(full, size))
    of_training = weights.loaded.get('semmae_run') or {} if trained else {}
    return dict(
        row=f'{result.task}/{of["id"]}', tables=list(result.get('tables', [])),
        method=of['method'], recipe=of['id'], task=result.task, dataset=result.dataset,
        split=result.split, seed=of_training.get('seed', runner.seed),
        epochs=size.get('epochs'), iters=size.get('iters'), protocol=plain(protocol),
        config=config_name(cfg),
        config_sha256=hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
        checkpoint=near(checkpoint) if checkpoint else None,
        checkpoint_sha256=sha256(checkpoint) if checkpoint else None,
        load_report=of.get('load_report'), git_commit=git_commit(),
        pretraining=pretraining_of(of, cfg),
        model=model_facts(unwrapped(runner.model), cfg),
        **chosen_setting(unwrapped(runner.model)),
        kind=trained.get('kind') if trained else weights.kind(runner),
        differs=trained.get('differs') if trained else differences_of_task(runner),
        enlarged_why=both(not is_dense(cfg) and of.get('enlarged_why'), why_enlarged(full, size)),
        versions=versions(), device=device(), reduced=bool(reduced_why), reduced_why=reduced_why)


def differences_of_task(runner):
    """{field: [shipped config of the task, this run]}; {} for a reduced run."""
    size, full = run_size(runner), runner.cfg.result.get('full', {})
    return {} if why_reduced(full, size) else plain(
        task_differences(runner.cfg, size) | other_sources(probe_parts(runner)))


def other_sources(fields):
    """{field: ['learned', source]} where a probe chooses patches by parts that are not learned."""
    return {key: ['learned', source] for key, source in fields.items()
            if key in ('train_parts.source', 'val_parts.source') and source != 'learned'}


def pretraining_of(of, cfg):
    """Identity of the weights and what differs from their recipe; of: `Weights.describe`."""
    found = {k: of[k] for k in ('identity', 'differs') if of.get(k)}
    if is_dense(cfg):
        found['identity'] = plain(network_fields(cfg)) | found.get('identity', {})
    return found


def chosen_setting(model):
    """dict(chosen=setting) of a probe that chose its setting, else {}."""
    chosen = getattr(model, 'chosen', None)
    return dict(chosen=chosen) if chosen else {}


def selection(cfg, checkpoint):
    """dict(selection=text) for the best of several settings or validations, else {}.

    ``result.selected_from`` is the number of settings. A file that mmengine's ``save_best`` wrote
    is the best of the validations of its training.
    """
    texts = []
    if cfg.result.get('selected_from'):
        texts.append(f'best of {cfg.result.selected_from} settings')
    if cfg.result.get('selected_on'):
        texts.append(f'setting chosen on {cfg.result.selected_on}')
    if checkpoint and Path(checkpoint).name.startswith('best_'):
        train = cfg.get('train_cfg') or {}
        length = train.get('max_epochs') or train.get('max_iters')
        num = length and -(-length // train.get('val_interval', 1))
        texts.append(f'best of {num or "several"} validations')
    return dict(selection=', '.join(texts)) if texts else {}


def require_agreement(metrics, arrays, source):
    """Raises ValueError if a metric, to two decimals, differs from that of its predictions."""
    counted = {name.lower(): value for name, value in (recount(arrays) if arrays else {}).items()}
    for metric, value in metrics.items():
        again = counted.get(metric_name(metric))
        if again is not None and abs(again - value) > 0.0051:
            raise ValueError(f'the evaluator gives {metric} {value:.4f}, {source} says '
                             f'{again:.4f}; no result was written. Check the evaluator of the '
                             'config: both must use the same images and labels')


def near(path):
    """A path, relative to the working directory if inside it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def both(of_pretraining, of_task):
    """The text on a pre-training and the text on the task, joined."""
    return '; '.join(text for text in (of_pretraining and f'pre-training: {of_pretraining}',
                                       of_task) if text)


def own_checkpoint(runner):
    """The file with the weights of a training: the last saved one, or the one it started from."""
    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    return hook and (hook.last_ckpt or runner.cfg.get('load_from'))
