"""The console command: names, help, paths, what it loads, and how it is started elsewhere."""
import contextlib
import importlib
import io
import json
import subprocess
import sys

import pytest

from semmae import shipped
from semmae.commands import main
from semmae.config.options import read_config
from semmae.needs import needs_of, with_bases
from semmae.suites.commands import command_of
from semmae.suites.rows import Extract, ToyData, Train

from ..tiny import REPO, config, tool, trained

MINI = 'mm_configs/mini/mae_p16_mini.py'


def module_of(name):
    return importlib.import_module(f'semmae.commands.{name.replace(" ", "_")}')


# ------------------------------------------------------------------ names and help
@pytest.mark.parametrize('name', shipped.COMMANDS)
def test_a_command_is_a_module_and_its_file_in_tools_only_calls_it(name):
    if file := shipped.COMMANDS[name].tool:
        text = (REPO / f'tools/{file}.py').read_text()
        module = f'semmae.commands.{name.replace(" ", "_")}'
        assert f'from {module} import main' in text and len(text.splitlines()) <= 9
        assert callable(module_of(name).main)


def test_every_python_file_in_tools_is_a_command():
    assert {path.stem for path in (REPO / 'tools').glob('*.py')} == set(shipped.NAMES)


@pytest.mark.parametrize('name', shipped.COMMANDS)
def test_help_ends_with_an_example_and_speaks_of_semmae(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/semmae'])
    with pytest.raises(SystemExit) as end:
        main([*name.split(), '--help'])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith(f'usage: semmae {name} ')
    assert 'python tools/' not in said
    if name != 'data toy':
        assert said.rstrip().endswith(f'example: semmae {name} {shipped.COMMANDS[name].example}')


def test_help_of_a_tool_speaks_of_tools():
    said = tool('train', '--help').stdout
    assert said.rstrip().endswith('example: python tools/train.py mm_configs/semmae_pretrain.py')


def test_without_a_command_the_list_of_commands_is_printed_with_status_2(capsys):
    assert main([]) == 2
    said = capsys.readouterr().out
    assert all(f'semmae {name} ' in said for name in shipped.COMMANDS)
    assert main(['data']) == 2
    said = capsys.readouterr().out
    assert 'semmae data unpack ' in said and 'semmae train' not in said


@pytest.mark.parametrize('words, known', [
    (['trian'], 'train, test'), (['parts', 'extrct'], 'expected extract, quality')])
def test_an_unknown_command_is_one_line_that_names_the_known_ones(words, known, capsys):
    assert main(words) == 2
    line, = capsys.readouterr().err.splitlines()
    assert repr(words[-1]) in line and known in line


def test_a_wrong_flag_of_semmae_is_one_line(capsys):
    for words in (['train', MINI, '--wrong'], ['convert', 'a', 'b', '--to', 'timm', '--wrong']):
        with pytest.raises(SystemExit) as end:
            main(words)
        line, = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and 'unrecognized arguments: --wrong' in line


# ------------------------------------------------------------------ a missing path
MISTAKES = {
    ('train', 'mm_configs/typo.py'): 'no config at mm_configs/typo.py',
    ('train', MINI): 'no image folder at data/toy/imagenet/train.',
    ('train', 'mm_configs/semmae_pretrain.py'): 'no part store at data/parts/imagenet_train_28.',
    ('train', 'mm_configs/semmae_upernet_ade20k.py'): 'no image folder at data/ADEChallengeData',
    ('train', 'mm_configs/dense/dense_cub.py', '--cfg-options', 'model.backbone.global_pool=token'):
        'no image folder at data/CUB_200_2011',
    ('test', MINI, 'x.pth'): 'no checkpoint at x.pth',
    ('launch', 'train', '2', 'mm_configs/typo.py'): 'no config at mm_configs/typo.py',
    ('parts', 'extract', MINI, 'x.pth', '--images', 'no', '--out', 'o'): 'no image folder at no',
    ('parts', 'quality', MINI, 'x.pth', '--cub', 'no'): 'no checkpoint at x.pth',
    ('parts', 'extract', MINI, '--labels', 'no', '--images', '.', '--out', 'o'):
        'no folder of label maps at no',
    ('parts', 'quality', MINI, str(REPO / 'setup.cfg'), '--cub', 'no'): 'no folder at no. Run: ',
    ('parts', 'quality', MINI, str(REPO / 'setup.cfg'), '--masks', '.', 'no', '--name', 'x'):
        'no folder at no',
    ('view', 'curves', 'no', '--out', 'x.png'): 'no work directory at no',
    ('view', 'masks', MINI, '--images', 'no', '--out', 'x.png'): 'no image folder at no',
    ('convert', 'x.pth', 'y.pth', '--to', 'timm'): 'no checkpoint at x.pth',
    ('embed', 'no', '--timm', 'vit', '--out', 'f.npz'): 'no image folder at no',
    ('embed', '.', '--checkpoint', 'x.pth', '--out', 'f.npz'): 'no checkpoint at x.pth',
    ('embed', '.', '--config', 'typo.py', '--out', 'f.npz'): 'no config at typo.py',
    ('predict', MINI, 'x.pth', '--images', '.', '--out', 'x.csv'): 'no checkpoint at x.pth',
    ('probe', 'no', '--timm', 'vit'): 'no folder at no/train; expected no/train/CLASS/*.jpg',
    ('report', 'nothing'): 'no folder at nothing',
    ('tables', 'nothing'): 'no such file or folder: nothing',
    ('data', 'pack', 'no', '--out', 'o'): 'no image folder at no',
    ('data', 'unpack', 'x.tgz', '--out', 'o'): 'no archive at x.tgz',
    ('suite', 'mini', '--data', 'no'): 'no image folder at no',
    ('suite', 'paper', '--checkpoint', 'x.pth'): 'no checkpoint at x.pth',
    ('demo', '--images', 'no'): 'no image folder at no',
    ('demo', '--encoder', 'x.pth'): 'no checkpoint at x.pth',
    ('train', '--help'): '', ('--version',): ''}
REPORT = '''
import contextlib, io, json, sys
from semmae.commands import main
found = []
for words in json.loads(sys.argv.pop()):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    found.append([status, said.getvalue(), sorted({'torch', 'pandas', 'mmcv'} & {*sys.modules})])
print(json.dumps(found))
'''


def test_a_missing_path_is_one_line_with_status_2_and_loads_neither_torch_nor_pandas(tmp_path):
    done = subprocess.run([sys.executable, '-c', REPORT, json.dumps([*MISTAKES])], text=True,
                          cwd=tmp_path, capture_output=True, check=True)
    for (words, wanted), (status, said, loaded) in zip(
            MISTAKES.items(), json.loads(done.stdout), strict=True):
        assert loaded == [], words
        assert status == (2 if wanted else 0), (words, said)
        assert wanted in said and len(said.splitlines()) == bool(wanted), (words, said)
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_a_config_with_absolute_places_needs_no_root(tmp_path):
    from semmae.config.paths import require_data
    require_data(dict(data_root='none', data_prefix=dict(img_path=str(tmp_path))))
    with pytest.raises(FileNotFoundError, match='no image folder at none'):
        require_data(dict(data_root='none', data_prefix=dict(img_path='images')))


# ------------------------------------------------------------------ outside of a checkout
def test_a_shipped_config_is_found_from_any_folder_and_a_file_there_comes_first(
        tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(MINI).filename == str(REPO / MINI)
    assert 'toy' in needs_of(MINI)
    own = tmp_path / MINI
    own.parent.mkdir(parents=True)
    own.write_text('own = 1\n')
    assert read_config(MINI).own == 1
    assert shipped.config_path('mm_configs/none.py') == 'mm_configs/none.py'
    assert shipped.config_path('other/mae_p16_mini.py') == 'other/mae_p16_mini.py'


def test_a_config_of_the_user_derives_a_shipped_one_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / 'own.py'
    own.write_text(f'_base_ = [{MINI!r}]\ntrain_dataloader = dict(batch_size=3)\n')
    cfg = read_config(own)
    assert cfg.train_dataloader.batch_size == 3 and cfg.model.type == 'semmae.SemMAE'
    assert str(REPO / MINI) in map(str, with_bases(own))
    (tmp_path / 'mm_configs').mkdir()
    (tmp_path / 'mm_configs/base.py').write_text('value = 1\n')  # beside the config: comes first
    own.write_text("_base_ = ['mm_configs/base.py']\n")
    assert read_config(own).value == 1
    own.write_text("_base_ = ['mm_configs/none.py']\n")
    with pytest.raises(ValueError, match='none.py'):
        read_config(own)


def test_rows_start_tools_in_a_checkout_and_semmae_elsewhere(tmp_path, monkeypatch):
    train, extract = Train('a', 'p', MINI), Extract('b', 'p', MINI, 'images', 8, checkpoint='c')
    monkeypatch.chdir(REPO)
    assert command_of(train, 'w', 0)[1:3] == ['tools/train.py', MINI]
    monkeypatch.chdir(tmp_path)
    assert command_of(train, 'w', 0)[1:5] == ['-m', 'semmae', 'train', MINI]
    assert command_of(train, 'w', 0, processes=2)[1:7] == [
        '-m', 'semmae', 'launch', 'train', '2', MINI]
    assert command_of(extract, 'w', 0)[1:6] == ['-m', 'semmae', 'parts', 'extract', MINI]
    assert command_of(ToyData('c', 'p', 'out'), 'w', 0)[1:3] == ['-m', 'semmae.datasets.toy']
    assert command_of(train, 'w', 0, processes=2, launcher='slurm')[5:9] == [
        '-m', 'semmae', 'train', MINI]


def test_messages_name_commands_as_the_user_started_them(monkeypatch):
    text = 'Run: python tools/extract_parts.py CONFIG, then tools/make_tables.py'
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    assert shipped.as_typed_here(text) == text
    for start in ('/usr/bin/semmae', '/site-packages/semmae/__main__.py'):
        monkeypatch.setattr(sys, 'argv', [start])
        assert shipped.as_typed_here(text) == 'Run: semmae parts extract CONFIG, then semmae tables'


# ------------------------------------------------------------------ output
def test_environment_config_and_hooks_are_in_the_log_file_only(tmp_path):
    code, said = trained(tmp_path, config(tmp_path, "log_level = 'INFO'"))
    log, = (tmp_path / 'work').rglob('*.log')
    for text in ('System environment:', 'Config:\n', 'Hooks will be executed', 'Exp name: '):
        assert text in log.read_text() and text not in said
    assert code == 0 and 'Saving checkpoint at 3 epochs' in said


def test_a_closed_pipe_ends_without_a_traceback(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return 99

    monkeypatch.setattr('os.dup2', lambda *_: None)
    with contextlib.redirect_stdout(Closed()):
        assert main(['data', 'check']) == 141


@pytest.mark.parametrize('missing', [
    'mmengine', pytest.param('mmseg', marks=pytest.mark.slow)])
def test_without_the_forks_a_command_says_how_to_install_them(missing, tmp_path):
    code = (f'import sys; sys.modules[{missing!r}] = None\nfrom semmae.commands import main\n'
            'sys.exit(main(["report", "."]) if sys.argv[1:] else main(["train", "x.py"]))')
    done = subprocess.run([sys.executable, '-c', code, *(['1'] if missing == 'mmseg' else [])],
                          cwd=tmp_path, text=True, capture_output=True)
    line, = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert missing in line and "pip install 'semmae[openmmlab]'" in line
