"""What a recipe of this project is, so that a training that only carries its name is told apart."""
import functools
import re
from pathlib import Path

from mmengine.config import Config

from .identity import evaluation_fields, prefixed, training_fields

SHIPPED = Path(__file__).resolve().parents[2] / 'mm_configs'

# Fields of an identity that a config alone does not know, or that no recipe fixes.
NOT_OF_A_RECIPE = re.compile(
    r'(.*\.)?(versions\.|train_images$|norm_batch$)|(parts\.learner\.)?encoder\.|'
    r'parts\.(view|precision)\b')


def full_size():
    """Paths of the shipped configs at full size."""
    return sorted([*SHIPPED.glob('*.py'), *SHIPPED.glob('ablations/*.py')])


@functools.cache
def shipped(recipe):
    """The shipped config at full size whose ``recipe.id`` is this, or None."""
    for path in full_size():
        if re.search(rf'''\bid=['"]{re.escape(recipe)}['"]''', path.read_text()):
            cfg = Config.fromfile(path)
            if (cfg.get('recipe') or {}).get('id') == recipe:
                return cfg
    return None


@functools.cache
def shipped_tasks(task):
    """[fields] of the shipped configs at full size that evaluate by this task."""
    return [task_fields(cfg) for cfg in map(Config.fromfile, full_size())
            if (cfg.get('result') or {}).get('task') == task]


def recipe_fields(cfg):
    """The fields of a training that is done exactly as its config says, at the stated size."""
    full = cfg.recipe.get('full') or {}
    facts = {key: full[key] for key in ('batch_size', 'num_train') if key in full}
    return {**facts, **training_fields(cfg), **stated_parts(cfg)}


def stated_parts(cfg):
    """The fields ``parts.`` that a recipe stands for, from ``recipe.parts`` and its learner.

    recipe.parts: dict(learner=recipe id of part learning, source=..., foreground=...), all of them
    optional; learned parts of the recipe 'parts' are the default.
    """
    data = cfg.train_dataloader.dataset
    data, online = data.get('dataset') or data, cfg.model.get('online_parts')
    if not (data.get('part_store') or online):
        return {}
    said = cfg.recipe.get('parts') or {}
    source = said.get('source', 'learned')
    masking = cfg.model.get('masking') or {}
    fields = dict(source='online' if online else source,
                  grid=online.get('grid') if online else data.get('grid'),
                  num_parts=data.get('num_parts') or masking.get('num_parts'))
    if (learner := shipped(said.get('learner', 'parts'))) is not None:
        fields |= prefixed('learner', recipe_fields(learner))
        if source == 'learned' and not online:
            made = {'foreground': 'own', **learner.model.parts, **{
                k: v for k, v in said.items() if k == 'foreground'}}
            fields |= prefixed('parts', made) | dict(softmax_over=learner.model.softmax_over)
    return prefixed('parts', fields)


def differences(fields, recipe):
    """{field: [of the recipe, of this training]}; of an unknown recipe {'recipe': [None, name]}.

    fields: `identity.identity_of`.
    """
    wanted = shipped(recipe)
    if wanted is None:
        return {'recipe': [None, recipe]}
    wanted = recipe_fields(wanted)
    return {key: [wanted.get(key), fields.get(key)] for key in sorted({*wanted, *fields})
            if not NOT_OF_A_RECIPE.match(key) and wanted.get(key) != fields.get(key)}


# What a task takes from the weights that it evaluates.
OF_THE_NETWORK = re.compile(
    r'model\.backbone\.|model\.(neck|head|decode_head|auxiliary_head)\.'
    r'(in_channels|embed_dim|input_features)$')


def task_fields(cfg):
    """The fields of a task, without those of the network that it is done with."""
    full = (cfg.get('result') or {}).get('full') or {}
    facts = {key: full[key] for key in ('batch_size', 'num_train') if key in full}
    fields = {**facts, **training_fields(cfg), **evaluation_fields(cfg)}
    return {k: v for k, v in fields.items() if not OF_THE_NETWORK.match(k)}


def task_differences(cfg, size):
    """{field: [of the shipped config, of this run]} to the nearest config of the same task.

    size: `conditions.run_size`. {} for a task that no shipped config has.
    """
    found = task_fields(cfg)
    own = found | {key: size.get(key) for key in ('batch_size', 'num_train') if key in found}
    return min(({key: [wanted.get(key), own.get(key)] for key in sorted({*wanted, *own})
                 if wanted.get(key) != own.get(key)}
                for wanted in shipped_tasks(cfg.result.task)), key=len, default={})
