"""The recipes of this project, and how a training differs from the recipe that it names."""
import functools
import re
from pathlib import Path

from mmengine.config import Config

from ..shipped import CONFIGS
from .identity import evaluation_fields, prefixed, training_fields
from .lookup import Fields, Node, at, innermost
from .options import config_of

# Fields of an identity that are not in a config, or that no recipe fixes.
NOT_OF_A_RECIPE = re.compile(
    r'(.*\.)?(versions\.|train_images$|norm_batch$)|(parts\.learner\.)?encoder\.|'
    r'parts\.(view|precision)\b')


def shipped_configs() -> list[Path]:
    """Paths of the shipped configs at full size."""
    return sorted([*CONFIGS.glob('*.py'), *CONFIGS.glob('ablations/*.py')])


@functools.cache
def shipped(recipe: str) -> Config | None:
    """The shipped config at full size whose ``recipe.id`` is this, or None."""
    for path in shipped_configs():
        if re.search(rf'''\bid=['"]{re.escape(recipe)}['"]''', path.read_text()):
            cfg = config_of(path)
            if at(cfg, 'recipe.id') == recipe:
                return cfg
    return None


@functools.cache
def shipped_tasks(task: str) -> list[Fields]:
    """The fields of each shipped config at full size that evaluates this task."""
    return [task_fields(cfg) for cfg in map(config_of, shipped_configs())
            if at(cfg, 'result.task') == task]


def stated_facts(cfg: Node, key: str) -> Fields:
    """Global batch and training images of the paper, as ``recipe`` or ``result`` states them."""
    full = at(cfg, f'{key}.full') or {}
    return {name: full[name] for name in ('batch_size', 'num_train') if name in full}


def recipe_fields(cfg: Node) -> Fields:
    """The fields of a training that follows its config exactly, at the stated size."""
    return {**stated_facts(cfg, 'recipe'), **training_fields(cfg), **stated_parts(cfg)}


def stated_parts(cfg: Node) -> Fields:
    """The fields ``parts.`` of a recipe, from ``recipe.parts`` and its learner.

    recipe.parts: dict(learner=recipe id of part learning, source=..., foreground=...), each
    optional. The default is learned parts of the recipe 'parts'.
    """
    data, online = innermost(cfg.train_dataloader), cfg.model.get('online_parts')
    if not (data.get('part_store') or online):
        return {}
    said = cfg.recipe.get('parts') or {}
    source = said.get('source', 'learned')
    fields = dict(source='online' if online else source,
                  grid=online.get('grid') if online else data.get('grid'),
                  num_parts=data.get('num_parts') or at(cfg.model, 'masking.num_parts'))
    if (learner := shipped(said.get('learner', 'parts'))) is not None:
        fields |= prefixed('learner', recipe_fields(learner))
        if source == 'learned' and not online:
            made = {'foreground': 'own', **learner.model.parts, **{
                k: v for k, v in said.items() if k == 'foreground'}}
            fields |= prefixed('parts', made) | dict(softmax_over=learner.model.softmax_over)
    return prefixed('parts', fields)


def differences(fields: Fields, recipe: str) -> Fields:
    """{field: [of the recipe, of this training]}; {'recipe': [None, name]} for an unknown recipe.

    fields: `identity.identity_of`.
    """
    cfg = shipped(recipe)
    if cfg is None:
        return {'recipe': [None, recipe]}
    wanted = recipe_fields(cfg)
    return {key: [wanted.get(key), fields.get(key)] for key in sorted({*wanted, *fields})
            if not NOT_OF_A_RECIPE.match(key) and wanted.get(key) != fields.get(key)}


# Keys of a task that follow from the evaluated weights.
OF_THE_NETWORK = re.compile(
    r'model\.backbone\.|model\.(neck|head|decode_head|auxiliary_head)\.'
    r'(in_channels|embed_dim|input_features)$')


def task_fields(cfg: Node) -> Fields:
    """The fields of a task, without those of the evaluated network."""
    fields = {**stated_facts(cfg, 'result'), **training_fields(cfg), **evaluation_fields(cfg)}
    return {k: v for k, v in fields.items() if not OF_THE_NETWORK.match(k)}


def task_differences(cfg: Node, size: Fields) -> Fields:
    """{field: [of the shipped config, of this run]}, for the nearest config of the same task.

    size: `size.run_size`. Returns {} for a task that no shipped config has.
    """
    found = task_fields(cfg)
    own = found | {key: size.get(key) for key in ('batch_size', 'num_train') if key in found}
    return min(({key: [wanted.get(key), own.get(key)] for key in sorted({*wanted, *own})
                 if wanted.get(key) != own.get(key)}
                for wanted in shipped_tasks(cfg.result.task)), key=len, default={})
