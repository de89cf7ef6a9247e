"""README, CONTRIBUTING and the pages in docs/ say what is there: links, paths, names, flags, rooms.

python -m tests.test_docs writes the picture of rooms into docs/architecture.md.
"""
import argparse
import ast
import contextlib
import functools
import io
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from semmae.commands import main
from semmae.shipped import COMMANDS
from tests.test_architecture import LAYERS, REPO, arrows

PAGES = sorted((REPO / 'docs').rglob('*.md'))
TEXTS = [REPO / 'README.md', REPO / 'CONTRIBUTING.md', REPO / 'benchmarks/README.md', *PAGES]
ARCHITECTURE = REPO / 'docs/architecture.md'
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ROOMS = re.compile(r'<!-- rooms -->\n.*?<!-- /rooms -->', re.DOTALL)


def name(path):
    return path.relative_to(REPO).as_posix()


every_text = pytest.mark.parametrize('path', TEXTS, ids=name)


# ------------------------------------------------------------------ rooms
def purpose(room):
    """First sentence of the docstring of a room."""
    path = REPO / 'semmae' / room
    path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    text = ast.get_docstring(ast.parse(path.read_text())).replace('``', '`')
    return re.split(r'\.(?:\s|$)', text)[0]


def rooms():
    """Markdown of the rooms of the package, layer by layer, and of the rooms that each imports."""
    order = [room for layer in LAYERS for room in layer]
    found = arrows()
    imported = {room: [to for to in order if (room, to) in found] for room in order}
    wide = max(map(len, order))
    picture = '\n\n'.join('\n'.join(
        f'{room:{wide}} <- {", ".join(imported[room])}' if imported[room] else room
        for room in layer) for layer in LAYERS)
    table = '\n'.join(f'| `{room}` | {purpose(room)} |' for room in order)
    return (f'<!-- rooms -->\n```\n{picture}\n```\n\n| room | what it holds |\n|---|---|\n{table}\n'
            '<!-- /rooms -->')


def test_the_rooms_and_arrows_in_the_page_are_those_of_the_code():
    assert ROOMS.findall(ARCHITECTURE.read_text()) == [rooms()], 'run: python -m tests.test_docs'


# ------------------------------------------------------------------ links, paths, names
def links(text):
    """Targets of the links and pictures in Markdown, those in code left out."""
    text = re.sub(r'`[^`\n]*`', '', FENCE.sub('', text))
    return [target for target in re.findall(r'\]\(([^)\s]+)\)', text)
            if not target.startswith(('http:', 'https:'))]


def anchors(path):
    return {slugify(title.replace('`', ''), '-')
            for title in re.findall(r'^#+ (.+)$', FENCE.sub('', path.read_text()), re.MULTILINE)}


def dead_links(path):
    dead = []
    for target in links(path.read_text()):
        file, _, anchor = target.partition('#')
        other = path.parent / file if file else path
        if not other.exists() or anchor and anchor not in anchors(other):
            dead.append(target)
    return dead


@every_text
def test_every_relative_link_leads_to_a_file_and_a_heading(path):
    assert dead_links(path) == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('# A title\n[a](page.md#a-title) [b](none.md) [c](#none) `[d](code.md)`\n')
    assert dead_links(page) == ['none.md', '#none']


def missing_paths(text):
    """Paths of this repository in a text that do not exist; * stands for any characters."""
    found = re.findall(r'(?<![\w./-])(?:tools|mm_configs|semmae|benchmarks|tests|docs|requirements)'
                       r'/[\w./*{},-]*\w(?:/|\b|\*)', text)
    single = {one for path in found for one in expanded(path)}
    return sorted(path for path in single if not list(REPO.glob(path.rstrip('/'))))


def expanded(path):
    """The paths that a pattern of the shell, with braces, stands for."""
    braces = re.search(r'\{([\w,]+)\}', path)
    return [path] if not braces else [
        path.replace(braces[0], choice) for choice in braces[1].split(',')]


@every_text
def test_every_path_of_the_repository_in_a_text_exists(path):
    assert missing_paths(path.read_text()) == []


@pytest.mark.parametrize('path', PAGES, ids=name)
def test_every_config_in_a_table_of_mm_configs_exists(path):
    told = re.findall(r'`((?:ablations|mini|tiny_imagenet)/[\w*-]+\.py|semmae_\w+\.py)`',
                      path.read_text())
    assert [config for config in told if not list((REPO / 'mm_configs').glob(config))] == []


def test_a_missing_path_is_found():
    text = 'semmae/none.py, tools/train.py, mm_configs/mini/*.py, tests/none*, data/imagenet'
    assert missing_paths(text) == ['semmae/none.py', 'tests/none']


def references(text):
    """(path, [names]) of each `` `path.py` (`name`, `Class.method`) `` in a text."""
    return [(path, re.findall(r'`([\w.]+)`', names)) for path, names in
            re.findall(r'`([\w./-]+\.\w+)`\s+\(((?:`[\w.]+`(?:, )?)+)\)', text)]


@functools.cache
def defined_in(path):
    """Functions, classes, methods as Class.method, and variables that a file defines."""
    found = set()
    for node in ast.parse((REPO / path).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            found |= {f'{node.name}.{inner.name}' for inner in node.body
                      if isinstance(inner, ast.FunctionDef)}
    return found


@every_text
def test_every_name_given_with_its_file_is_defined_there(path):
    assert [(file, name) for file, names in references(path.read_text())
            for name in names if name not in defined_in(file)] == []


def test_names_are_found_where_they_are_defined():
    assert references('`a/b.py` (`f`, `C.g`)') == [('a/b.py', ['f', 'C.g'])]
    assert {'PAGES', 'rooms'} <= defined_in('tests/test_docs.py')
    assert 'none' not in defined_in('tests/test_docs.py')


def test_contributing_answers_five_questions_by_at_most_three_files_each():
    text = (REPO / 'CONTRIBUTING.md').read_text()
    questions = text.partition('## Five questions')[2].partition('\n## ')[0]
    answers = dict(re.findall(r'^\| (.+?) \| (.+) \|$', questions, re.MULTILINE))
    asked = [question for question in answers if question.endswith('?')]
    assert len(asked) == 5
    files = {question: re.findall(r'`([\w/-]+/[\w./-]+\.py)`', answer)
             for question, answer in answers.items()}
    tasks = 'a mask', 'a data set', 'a backbone', 'a task'
    for question in (*[q for q in asked if q != 'How do I add something?'], *tasks):
        assert 1 <= len(files[question]) <= 3, question


# ------------------------------------------------------------------ commands
def commands(text):
    """Each command in a text as words from its tools/... on; those of ``semmae`` have it, too."""
    text = re.sub(rf'\bsemmae ({"|".join(COMMANDS)})\b', lambda found: (
        f'tools/{COMMANDS[found[1]].tool or found[1].replace(" ", "_")}.py'), text)
    lines = [line for kind, block in FENCE.findall(text) if kind in ('bash', '')
             for line in re.sub(r'\\\n\s*', '', block).splitlines()]
    lines += re.findall(r'`([^`]+)`', FENCE.sub('', text))
    found = [re.search(r'(?<![\w/])tools/\w+\.(?:py|sh)\b.*', re.sub(r'\s#.*', '', line))
             for line in lines]
    return [match[0].split() for match in found if match]


@functools.cache
def help_of(tool, kind):
    """What ``--help`` of a tool prints; its own text for a script without one."""
    if not (REPO / f'tools/{tool}.py').is_file():  # a command of semmae alone
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            main([*tool.split('_'), '--help'])
        return said.getvalue()
    from tests import tiny  # loads the mm libraries
    told = tiny.tool(tool, *([kind] if kind else []), '--help')
    assert told.returncode == 0, told.stderr
    return told.stdout


def unknown_flags(words):
    """Flags of a command that its tool does not know; those after ``--`` are for another."""
    tool, arguments = words[0], words[1:]
    arguments = arguments[:arguments.index('--')] if '--' in arguments else arguments
    flags = {word.partition('=')[0] for word in arguments if re.fullmatch(r'--[a-z][\w=-]*', word)}
    if not flags or tool == 'tools/run_tests.sh':  # hands its arguments to pytest
        return []
    if tool == 'tools/quickstart.sh':
        known = (REPO / tool).read_text()
    else:
        python = {'dist_train': 'train', 'slurm_train': 'train', 'dist_test': 'test'}
        stem = Path(tool).stem
        known = help_of(python.get(stem, stem), arguments[0] if stem == 'visualize' else '')
    return sorted(flag for flag in flags if not re.search(rf'{flag}(?![\w-])', known))


@every_text
def test_every_flag_of_a_shown_command_is_known_to_its_tool(path):
    shown = commands(path.read_text())
    assert [(words[0], unknown) for words in shown if (unknown := unknown_flags(words))] == []


def test_commands_are_found_and_an_unknown_flag_is_reported():
    text = ('```bash\nA=1 python tools/train.py C --amp \\\n    --none 1   # --not\n```\n'
            '`bash tools/a.sh` and `semmae parts extract --x`')
    train, other, extract = commands(text)
    assert train == ['tools/train.py', 'C', '--amp', '--none', '1'] and other == ['tools/a.sh']
    assert extract == ['tools/extract_parts.py', '--x']
    assert unknown_flags(train) == ['--none']
    assert sum(len(commands(path.read_text())) for path in TEXTS) > 50


@every_text
def test_every_option_of_a_shown_training_is_one_that_its_config_has(path):
    from semmae.config.options import Options, read_config
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Options)
    for _, *arguments in commands(path.read_text()):
        config = next((word for word in arguments if word.startswith('mm_configs/')), None)
        if config and '--cfg-options' in arguments:
            options = arguments[arguments.index('--cfg-options'):]
            read_config(REPO / config, parser.parse_args(options).cfg_options)


# ------------------------------------------------------------------ figures
SPREAD = re.compile(r'(\d+\.\d+) ± (\d+\.\d+)')


def measured():
    """(mean, standard deviation) of each figure of the committed results."""
    results = REPO / 'benchmarks/results'
    told = {tuple(map(float, pair)) for path in results.rglob('table*.md')
            for pair in SPREAD.findall(path.read_text())}
    lines = map(json.loads, (results / 'transfer/results.jsonl').read_text().splitlines())
    values = {}
    for line in lines:
        values.setdefault(line['row'], []).append(line['value'])
    return told | {(statistics.mean(v), statistics.stdev(v)) for v in values.values()}


def unmeasured(text):
    """Figures 'mean ± standard deviation' of a text that no committed result rounds to."""
    known = measured()
    return [pair for pair in SPREAD.findall(text)
            if not any(abs(float(pair[0]) - mean) < .051 and abs(float(pair[1]) - spread) < .051
                       for mean, spread in known)]


@pytest.mark.parametrize('file', ['README.md', 'docs/results.md', 'docs/part-quality.md'])
def test_every_figure_with_a_spread_is_one_of_the_committed_results(file):
    text = (REPO / file).read_text()
    assert SPREAD.search(text) and unmeasured(text) == []


def test_a_figure_that_was_not_measured_is_found():
    assert unmeasured('18.1 ± 0.4 and 18.1 ± 0.9') == [('18.1', '0.9')]


def test_tables_of_the_readme_stand_in_the_page_of_results_as_they_are():
    rows = re.findall(r'^\|.*(?:not run|±).*$', (REPO / 'README.md').read_text(), re.MULTILINE)
    assert len(rows) == 14
    assert set(rows) <= set((REPO / 'docs/results.md').read_text().splitlines())


# ------------------------------------------------------------------ the whole
def test_the_readme_has_at_most_200_lines():
    assert len((REPO / 'README.md').read_text().splitlines()) <= 200


def test_no_text_names_a_folder_of_the_machine_it_was_written_on():
    folder = r'(?<![\w.])/(?:tmp|root|home|work|mnt|Users)/\S*'
    more = [REPO / file for file in ('CHANGELOG.md', 'CITATION.cff', 'mkdocs.yml')]
    assert {name(path): found for path in [*TEXTS, *more]
            if (found := re.findall(folder, path.read_text()))} == {}


def test_the_citation_names_the_version_of_the_package_and_the_paper():
    cited = yaml.safe_load((REPO / 'CITATION.cff').read_text())
    version = re.search(r"__version__ = '(.+)'", (REPO / 'semmae/__init__.py').read_text())[1]
    assert cited['version'] == version
    assert f'## [{version}]' in (REPO / 'CHANGELOG.md').read_text()
    paper, = cited['references']
    assert [author['family-names'] for author in paper['authors']] == [
        'Li', 'Zheng', 'Liu', 'Wang', 'Su', 'Zheng']


@pytest.mark.slow
def test_the_website_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    built = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '-d', str(tmp_path)],
        cwd=REPO, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob('index.html'))
    assert len(pages) == len(PAGES)
    loads = re.compile(r'<(?:script|img)[^>]*src="?https?:|<link[^>]*stylesheet[^>]*href="?https?:')
    assert [page for page in pages if loads.search(page.read_text())] == []
    reference = (tmp_path / 'api/functional/index.html').read_text()
    assert 'id="semmae.functional.masking.part_guided_mask"' in reference


if __name__ == '__main__':
    page = ARCHITECTURE.read_text()
    ARCHITECTURE.write_text(ROOMS.sub(lambda _: rooms(), page))
    print(rooms())
