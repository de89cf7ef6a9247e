"""The origin of the weights of a run, usually a pre-training, as plain data.

A description has the fields id, method, reduced_why and identity, and for a pre-training of ours
also its size, its parts and what differs from the recipe. It travels in ``meta['semmae']`` of
checkpoints.
"""
from pathlib import Path

from ..checkpoints.read import local_file
from ..config.identity import identity_of, origin_fields, parts_behind
from ..config.lookup import plain
from ..config.recipes import differences
from ..config.size import run_size, why_enlarged, why_reduced
from ..files import sha256
from ..models.layers import unwrapped
from .environment import git_commit

PARTS = {'labels': ', true parts', 'heads': ', encoder heads as parts',
         'learned': ', learned parts'}  # added to the name of a method


class Weights:
    """The weights of a run.

    loaded: ``meta`` of the checkpoint that was loaded as a whole, {} without one.
    start: sha256 of the weights from which the config starts a training, or ''.
    """

    def __init__(self):
        self.loaded, self.start = {}, ''

    def load(self, meta, runner):
        """Take over ``meta`` of a checkpoint that the runner has loaded."""
        self.loaded = meta
        if runner._resume:
            known = (meta.get('semmae') or {}).get('identity') or {}
            self.start = known.get('start.weights', '')
        elif runner.cfg.get('load_from') and hasattr(
                getattr(runner, '_train_loop', None), 'dataloader'):
            self.start = sha256(local_file(runner.cfg.load_from))

    def describe(self, runner, size=None):
        """The description. size: done so far by a pre-training; default: the size in its config.

        Raises ValueError if ``result.recipe`` is not the recipe that made the checkpoint.
        """
        if runner.cfg.get('recipe'):
            return self.of_pretraining(runner, size or run_size(runner))
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        report = getattr(backbone, 'load_report', None)
        return self.of_whole_model(runner) if report is None else of_backbone(
            runner.cfg.get('result', {}), report)

    def of_pretraining(self, runner, size):
        """The description of the weights that a run with a recipe makes."""
        recipe, full = runner.cfg.recipe, runner.cfg.recipe.get('full', {})
        fields = identity_of(runner, size)
        if self.start:
            fields['start.weights'] = self.start[:12]
        # A reduced run always differs from its recipe.
        differs = {} if why_reduced(full, run_size(runner)) else differences(fields, recipe.id)
        return dict(id=recipe.id, method=recipe.method + other_parts(recipe, fields),
                    config=config_name(runner.cfg), seed=runner.seed,
                    reduced_why=why_reduced(full, size), enlarged_why=why_enlarged(full, size),
                    identity=plain(fields), differs=plain(differs),
                    parts=parts_behind(runner), encoder=encoder_behind(runner),
                    git_commit=git_commit(), **size)

    def of_whole_model(self, runner):
        """The description of a checkpoint that was loaded as a whole, or of no checkpoint."""
        stated, model = runner.cfg.get('result', {}), unwrapped(runner.model)
        own = self.loaded.get('semmae')
        if not own:
            name = stated.get('recipe') or 'scratch'
            unnamed = 'untrained' if self.kind(runner) == 'frozen' else 'from scratch'
            own = dict(id=name, method=stated.get('method') or (
                unnamed if name == 'scratch' else name), reduced_why='')
        if self.start:
            own = own | dict(identity={**(own.get('identity') or {}),
                                       'start.weights': self.start[:12]})
        own = {**own, **stated.get('stands_for', {}),
               **{k: own[k] + v for k, v in stated.get('variant', {}).items()}}
        if getattr(model, 'num_parts_out', None) != getattr(model, 'num_parts', None):
            own['method'] += f' ({model.num_parts_out} parts)'
        return own

    def kind(self, runner):
        """'frozen', 'fine-tuned' or 'from scratch': what a training does with its backbone."""
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        if backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
            return 'frozen'
        has_start = getattr(backbone, 'load_report', None) or self.start
        return 'fine-tuned' if has_start or init_of(runner.cfg) else 'from scratch'


def of_backbone(stated, report):
    """The description of a backbone's checkpoint.

    stated: ``result`` of the config. report: the load report of the checkpoint.
    """
    own = dict(report.get('recipe') or {})
    if own and stated.get('recipe') not in (None, own['id']):
        raise ValueError(f"result.recipe is '{stated.recipe}', but {report['path']} was "
                         f"made by '{own['id']}'; set result.recipe='{own['id']}'")
    stem = Path(report['path']).stem
    own = own or dict(id=stated.get('recipe') or f'file:{stem}', reduced_why='',
                      method=stated.get('method') or stated.get('recipe') or stem)
    own['identity'] = origin_fields(own, report['sha256'])
    task = own.pop('trained_on', None)
    if task:  # fine-tuned weights are no longer those of the pre-training
        own.update(id=f'{own["id"]}+{task}', method=f'{own["method"]}, trained on {task}',
                   identity=dict(own['identity'], trained_on=task, weights=report['sha256'][:12]))
    return dict(own, load_report={k: v for k, v in report.items() if k != 'recipe'})


def init_of(cfg):
    """Whether a config starts a backbone from a file."""
    backbone = cfg.model.get('backbone') or {}
    init = backbone.get('init_cfg') or {}
    return bool(backbone.get('pretrained') or cfg.model.get('pretrained') or (
        isinstance(init, dict) and init.get('type') == 'Pretrained'))


def other_parts(recipe, fields):
    """A text that names the parts where they are not of the kind that the recipe has, else ''."""
    source = fields.get('parts.source')
    wanted = (recipe.get('parts') or {}).get('source', 'learned')
    return '' if source in (None, 'online', wanted) else PARTS.get(source, f', {source} parts')


def encoder_behind(runner):
    """Name and sha256 of the frozen encoder of part learning, or None."""
    report = getattr(getattr(unwrapped(runner.model), 'encoder', None), 'load_report', None)
    if report is None:
        return None
    name = (report.get('recipe') or {}).get('id') or Path(report['path']).stem
    return dict(name=name, sha256=report['sha256'])


def config_name(cfg):
    """The config's path below its project, as a user types it."""
    if not cfg.filename:
        return ''
    path = Path(cfg.filename).resolve()
    root = next((p for p in path.parents if (p / 'mm_configs').is_dir()), path.parent)
    return path.relative_to(root).as_posix()
