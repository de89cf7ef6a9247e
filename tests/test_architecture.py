"""The rooms of the package and the one direction in which they import (docs/architecture.md)."""
import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FILES = sorted((REPO / 'semmae').rglob('*.py'))

# A room imports from itself and from rooms above it. Rooms on one line do not import each other.
LAYERS = [('shipped', 'progress_bar'), ('functional', 'files', 'needs'), ('registry',),
          ('checkpoints',), ('mmengine_patches',), ('models', 'datasets', 'evaluation'),
          ('config',), ('results',), ('training',), ('parts', 'probes'), ('recording',),
          ('reporting',), ('suites',), ('visualization',), ('api',), ('commands',),
          ('__main__',)]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imports(path):
    """Full names of the modules that a file imports, relative ones resolved."""
    package = path.relative_to(REPO).with_suffix('').parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[:-node.level]) if node.level else ''
            module = '.'.join(x for x in (base, node.module) if x)
            found |= {module} | {f'{module}.{alias.name}' for alias in node.names}
    return found


def room(path):
    return path.relative_to(REPO / 'semmae').with_suffix('').parts[0]


def arrows():
    """{(room, imported room): {file}} of the whole package."""
    found = {}
    for path in FILES:
        for name in imports(path):
            top, _, rest = name.partition('.')
            target = rest.partition('.')[0]
            if top == 'semmae' and target in LEVEL and room(path) not in ('__init__', target):
                found.setdefault((room(path), target), set()).add(path.name)
    return found


def test_every_module_is_in_a_room_of_the_list():
    assert {room(path) for path in FILES} - {'__init__'} == set(LEVEL)


def test_no_room_imports_a_room_below_or_beside_it():
    against = {arrow: files for arrow, files in arrows().items()
               if LEVEL[arrow[1]] >= LEVEL[arrow[0]]}
    assert not against


def test_functional_imports_torch_and_nothing_else_of_ours():
    for path in (REPO / 'semmae' / 'functional').glob('*.py'):
        allowed = {'semmae', 'torch', 'math', '__future__'}
        outside = {i.split('.')[0] for i in imports(path)} - allowed
        assert not outside, f'{path.name}: {outside}'


@pytest.mark.parametrize('first', ['results', 'reporting'])
def test_results_and_reporting_load_neither_torch_nor_mm_libraries(first):
    heavy = {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'timm'}
    for path in (REPO / 'semmae' / first).glob('*.py'):
        assert not {i.split('.')[0] for i in imports(path)} & heavy, path.name


def test_the_pretraining_model_does_not_know_the_part_learner():
    assert not [i for i in imports(REPO / 'semmae/models/semmae.py') if 'part_' in i]


def test_nothing_in_the_package_imports_tools_benchmarks_or_tests():
    assert not [(path.name, i) for path in FILES for i in imports(path)
                if i.split('.')[0] in ('tools', 'benchmarks', 'tests')]


# {import: its distribution} where the names differ.
DISTRIBUTIONS = {'PIL': 'pillow', 'cv2': 'opencv-python', 'sklearn': 'scikit-learn',
                 'yaml': 'pyyaml', 'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv',
                 'mmpretrain': 'onedl-mmpretrain', 'mmseg': 'onedl-mmsegmentation'}


def test_every_imported_distribution_is_declared():
    setup = configparser.ConfigParser()
    setup.read(REPO / 'setup.cfg')
    texts = setup['options']['install_requires'], setup['options.extras_require']['openmmlab']
    declared = {re.split('[<>=]', line)[0] for text in texts for line in text.split()}
    imported = {name.partition('.')[0] for path in FILES for name in imports(path)}
    others = imported - {*sys.stdlib_module_names, 'semmae', ''}
    assert {DISTRIBUTIONS.get(name, name) for name in others} - declared == set()


def test_a_violation_would_be_seen():
    assert ('models', 'checkpoints') in arrows()
