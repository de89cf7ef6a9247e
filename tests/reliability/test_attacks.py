"""Nothing that is read runs code, and what is wrong is refused before anything changes."""
import hashlib
import http.server
import runpy
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from semmae.checkpoints.load import load_backbone
from semmae.checkpoints.read import read_checkpoint
from tests.reliability import attacks

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Every case, by row and name."""
    root = tmp_path_factory.mktemp('attacks')
    return {(case.row, case.name): case for case in attacks.cases(root)}


@pytest.mark.slow
@pytest.mark.parametrize('row, at_least', [
    ('malicious', 35), ('archives', 15), ('unwritable', 7), ('torn', 7), ('names', 8),
    ('optional', 2)])
def test_every_attack_of_a_row_is_refused(made, row, at_least):
    tried = [case for case in made.values() if case.row == row]
    assert len(tried) >= at_least
    assert [case.name for case in tried if not case.ours()] == []


@pytest.mark.slow
def test_a_run_that_differs_is_not_resumed(made):
    tried = [case for case in made.values() if case.row == 'other-run']
    assert len(tried) >= 10
    assert [case.name for case in tried if not case.ours()] == []


@pytest.mark.parametrize('name', [
    'os.system in a zip', 'exec in the old format', 'code in an object array',
    'a config in meta, resumed', 'annotations in x.pkl', 'annotations in x.yaml',
    'a config in YAML', 'a dumped config, for tables'])
def test_the_canary_is_created_where_stock_code_loads(made, name):
    """The negative control: these files do run code."""
    assert made['malicious', name].stock().startswith('runs the code')


@pytest.mark.parametrize('name', ['../ in a tar', 'a symlink, and a file through it'])
def test_stock_extraction_writes_outside(made, name):
    assert made['archives', name].stock().startswith('writes outside')


@pytest.fixture
def evil(tmp_path):
    canary = tmp_path / 'canary'
    torch.save(dict(state_dict={}, meta=attacks.Runs(canary)), tmp_path / 'evil.pth')
    return tmp_path / 'evil.pth', canary


@pytest.mark.parametrize('tool, arguments', [
    ('test', ['mm_configs/mini/linprobe_p16_mini.py', 'EVIL', '--work-dir', 'WORK',
              '--cfg-options', 'test_dataloader.dataset.data_root=DATA/imagenet/val']),
    ('train', ['mm_configs/mini/linprobe_p16_mini.py', '--work-dir', 'WORK', '--cfg-options',
               'train_dataloader.batch_size=4',
               'model.backbone.init_cfg.checkpoint=EVIL', *[
                   f'{loader}.data_root=DATA/imagenet/{split}' for loader, split in [
                       ('train_dataloader.dataset.dataset', 'train'),
                       ('val_dataloader.dataset', 'val'), ('test_dataloader.dataset', 'val')]]]),
    ('extract_parts', ['mm_configs/mini/semmae_parts_mini.py', 'EVIL', '--images',
                       'DATA/imagenet/train', '--out', 'WORK']),
    ('convert_checkpoint', ['EVIL', 'WORK/x.pth', '--to', 'timm'])])
def test_a_tool_ends_with_status_2_and_one_line_that_names_the_file(
        tool, arguments, evil, toy, tmp_path, monkeypatch, capsys):
    path, canary = evil
    arguments = [a.replace('EVIL', str(path)).replace('WORK', str(tmp_path / 'work'))
                 .replace('DATA', str(toy)) for a in arguments]
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(f'tools/{tool}.py', run_name='__main__')
    said = capsys.readouterr().err
    assert ended.value.code == 2 and 'evil.pth' in said and 'Traceback' not in said
    assert not canary.exists()


def test_any_module_of_the_mm_libraries_loads_through_the_same_reader(evil):
    from mmengine.model import BaseModule
    path, canary = evil

    class Head(BaseModule):
        def __init__(self):
            super().__init__(dict(type='Pretrained', checkpoint=str(path)))
            self.fc = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='not executed'):
        Head().init_weights()
    with pytest.raises(ValueError, match='not executed'):
        load_checkpoint(nn.Linear(2, 2), str(path))
    assert not canary.exists()


# ------------------------------------------------------------------ addresses
@pytest.fixture
def served(tmp_path, monkeypatch):
    """(folder, its address): files in the folder are served over HTTP."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'served'
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send_head(self):
            if self.path == '/short.pth':  # says more than it sends
                self.send_response(200)
                self.send_header('Content-Length', '1000')
                self.end_headers()
                self.wfile.write(b'x')
                return None
            return super().send_head()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(
        Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def test_a_file_from_an_address_is_loaded_if_its_hash_is_right(served):
    folder, address = served
    source, target = attacks.vit(), attacks.vit()
    source.pos_embed.data.add_(1)
    torch.save(source.state_dict(), folder / 'x.pth')
    digest = hashlib.sha256((folder / 'x.pth').read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f'got sha256 {digest}, expected 0000'):
        load_backbone(target, f'{address}/x.pth#sha256={"0" * 64}')
    report = load_backbone(target, f'{address}/x.pth#sha256={digest}')
    assert report['sha256'] == digest and target.pos_embed.equal(source.pos_embed)
    (folder / 'y-00000000.pth').write_bytes((folder / 'x.pth').read_bytes())
    with pytest.raises(ValueError, match='expected 00000000'):
        read_checkpoint(f'{address}/y-00000000.pth')
    with pytest.raises(ValueError, match='expected #sha256= and 64 hex digits'):
        read_checkpoint(f'{address}/x.pth#md5=1')


def test_a_malicious_file_from_an_address_does_not_run(served, evil):
    (folder, address), (path, canary) = served, evil
    (folder / 'x.pth').write_bytes(path.read_bytes())
    for load in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(ValueError, match='not executed'):
            load(f'{address}/x.pth')
    assert not canary.exists()
    torch.hub.load_state_dict_from_url(f'{address}/x.pth', weights_only=False)
    assert canary.exists()  # the negative control: what mmengine would have done


@pytest.mark.parametrize('name, said', [('absent.pth', '404'), ('short.pth', 'ended after 1 of')])
def test_an_address_that_cannot_be_read_whole_leaves_nothing(served, name, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read_checkpoint(f'{served[1]}/{name}')
    assert not [*(tmp_path / 'cache').rglob('*.pth')]
