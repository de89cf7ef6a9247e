"""The way of the data, as imports: nothing looks back along the arrow (README, file map)."""
import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FILES = sorted((REPO / 'semmae').rglob('*.py'))


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


def importing(folder, target):
    return [f'{p.relative_to(REPO)} imports {i}' for p in FILES
            if p.is_relative_to(REPO / 'semmae' / folder)
            for i in imports(p) if i == target or i.startswith(target + '.')]


def test_functional_imports_torch_and_nothing_else_of_ours():
    for path in (REPO / 'semmae' / 'functional').glob('*.py'):
        allowed = {'semmae', 'torch', 'math', '__future__'}
        outside = {i.split('.')[0] for i in imports(path)} - allowed
        assert not outside, f'{path.name}: {outside}'
        assert not [i for i in imports(path) if i.startswith('semmae')
                    and not i.startswith('semmae.functional')]


@pytest.mark.parametrize('folder, target', [
    ('datasets', 'semmae.models'), ('models', 'semmae.datasets'),
    ('datasets', 'semmae.engine'), ('functional', 'semmae.registry'),
    ('evaluation', 'semmae.models'), ('evaluation', 'semmae.engine'),
    ('reporting', 'semmae.models'), ('reporting', 'semmae.engine'),
    ('models', 'semmae.reporting'), ('models', 'semmae.evaluation')])
def test_no_import_against_the_arrow(folder, target):
    assert importing(folder, target) == []


def test_of_the_engine_models_know_the_strict_loader_only():
    assert all(' semmae.checkpoints.load' in i for i in importing('models', 'semmae.engine'))


def test_the_pretraining_model_does_not_know_the_part_learner():
    assert not [i for i in imports(REPO / 'semmae/models/semmae.py') if 'part_' in i]


def test_nothing_in_the_package_imports_tools_or_benchmarks():
    assert importing('', 'tools') + importing('', 'benchmarks') == []


def test_the_rule_would_notice_a_violation(tmp_path):
    assert 'semmae.checkpoints.load.load_backbone' in imports(REPO / 'semmae/models/backbone.py')
