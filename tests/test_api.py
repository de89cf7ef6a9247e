"""The Python API: its page runs as it stands, it equals the commands, and its import is cheap."""
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

import semmae
from semmae.commands import main
from semmae.config.options import read_config
from semmae.datasets.part_store import PartStore, list_images
from semmae.registry import MODELS
from semmae.reporting.long import COLUMNS
from semmae.results.results import append_result

from .reporting.records import a_record
from .tiny import REPO

SNIPPETS = re.findall(r'^```python\n(.*?)^```$', (REPO / 'docs/python.md').read_text(),
                      re.MULTILINE | re.DOTALL)
PARTS = 'mm_configs/mini/semmae_parts_mini.py'
SEED = 'work_dirs/quickstart/seed0'


def saved(config, path, **meta):
    """A checkpoint of a config with random weights."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = MODELS.build(read_config(config).model)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)


@pytest.fixture(scope='module')
def home(toy, learner, tmp_path_factory):
    """A folder with the files that the page names."""
    root = tmp_path_factory.mktemp('home')
    (root / 'data').mkdir()
    (root / 'data/toy').symlink_to(toy)
    (root / 'photos').mkdir()
    for name in list_images(toy / 'imagenet/val')[:2]:
        shutil.copy(toy / 'imagenet/val' / name, root / 'photos')
    (root / 'weights').mkdir()
    torch.manual_seed(0)
    vit = timm.create_model('vit_small_patch14_dinov2', num_classes=0)
    save_file(vit.state_dict(), root / 'weights/dinov2_vits14.safetensors')
    arch = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
    saved('mm_configs/mini/semmae_p16_mini.py', root / SEED / 'semmae_p16/epoch_16.pth',
          semmae=dict(id='semmae_p16', method='SemMAE'),
          semmae_config={f'model.backbone.arch.{key}': value for key, value in arch.items()})
    saved('mm_configs/mini/semmae_upernet_ade20k_mini.py',
          root / SEED / 'ade20k/semmae_p16/iter_240.pth')
    (root / SEED / 'parts').mkdir()
    shutil.copy(learner, root / SEED / 'parts/epoch_3.pth')
    append_result(root / SEED / 'linprobe/results.jsonl', a_record())
    return root


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


@pytest.fixture(scope='module')
def ran(home):
    """The names that all snippets of the page leave, run in order."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for snippet in SNIPPETS:
            exec(compile(snippet, 'docs/python.md', 'exec'), names)
    return names


# ------------------------------------------------------------------ the page
def test_the_page_shows_each_function_in_a_snippet_of_at_most_six_lines():
    used = {name for name in semmae.__all__ if any(f'semmae.{name}(' in s for s in SNIPPETS)}
    assert used == {*semmae.__all__} and max(s.count('\n') for s in SNIPPETS) <= 6


def test_every_snippet_of_the_page_runs_and_gives_the_shapes_that_it_says(ran):
    assert ran['features'].arrays['patches'].shape == (8, 784, 96)  # of 224 pixels
    assert ran['features'].about['grid'] == [28, 28]
    assert ran['parts'].ids.shape == (2, 16, 16) and ran['parts'].images.shape == (2, 224, 224, 3)
    assert set(np.unique(ran['thing'].ids)) == {0, 1}
    assert ran['heads'].ids.max() < 6  # heads of a ViT-S
    assert ran['found'][0].label_map.shape == (64, 64) and ran['found'][0].label is None
    assert isinstance(ran['table'], pd.DataFrame) and list(ran['table']) == list(COLUMNS)
    assert ran['table']['mean'].tolist() == [65.]
    assert type(ran['model']).__name__ == 'SemMAE'


def test_a_wrong_snippet_would_fail():
    with pytest.raises(AttributeError, match='no attribute'):
        exec('import semmae; semmae.none()', {})


# ------------------------------------------------------------------ the commands
def test_learned_parts_are_those_of_a_part_store(there, tmp_path):
    checkpoint = f'{SEED}/parts/epoch_3.pth'
    main(['parts', 'extract', PARTS, checkpoint, '--images', 'photos', '--out',
          str(tmp_path / 'store'), '--num-workers', '0'])
    store, parts = PartStore(tmp_path / 'store'), semmae.learned_parts(PARTS, checkpoint, 'photos')
    assert parts.names == list_images('photos')
    for i in range(2):
        ids, foreground = store[i]
        assert (parts.ids[i].ravel() == ids).all()
        assert (parts.foreground[i].ravel() == foreground).all()


def test_k_means_of_a_backbone_is_that_of_a_part_learner_with_this_encoder(there, tmp_path):
    """mini MAE as the encoder: the source 'kmeans' of a learner sees the same tokens."""
    cfg = read_config(PARTS)
    own = f'{SEED}/semmae_p16/epoch_16.pth'
    learner = MODELS.build(cfg.model)
    learner.encoder.checkpoint = own
    learner.encoder.init_weights()
    torch.save(dict(state_dict=learner.state_dict()), tmp_path / 'learner.pth')
    wanted = semmae.learned_parts(PARTS, tmp_path / 'learner.pth', 'photos', grid=8,
                                  source='kmeans')
    backbone = semmae.load_backbone(checkpoint=own)
    found = semmae.encoder_parts(backbone, 'photos', num_parts=cfg.model.num_parts)
    assert found.ids.shape == (2, 8, 8) and (found.ids == wanted.ids).all()
    assert (found.foreground == wanted.foreground).all()


def test_a_file_and_a_list_of_files_give_what_their_folder_gives(there):
    own = semmae.load_backbone(checkpoint=f'{SEED}/semmae_p16/epoch_16.pth')
    names = [f'photos/{name}' for name in list_images('photos')]
    whole = semmae.embed(own, 'photos')
    assert (semmae.embed(own, names).arrays['mean'] == whole.arrays['mean']).all()
    one = semmae.embed(own, names[1], batch_size=1)
    assert one.names == [names[1]]
    np.testing.assert_allclose(one.arrays['class'][0], whole.arrays['class'][1], atol=1e-5)


def test_a_call_leaves_the_default_scope_as_it_was(ran):
    if (scope := DefaultScope.get_current_instance()) is not None:
        assert scope.scope_name not in ('semmae', 'mmseg')


# ------------------------------------------------------------------ mistakes
MISTAKES = [
    (lambda own: semmae.load_backbone(), ValueError, 'expected one of name, config and checkpoint'),
    (lambda own: semmae.load_backbone('vit_none'), ValueError, "timm has no model 'vit_none'"),
    (lambda own: semmae.load_backbone(checkpoint='x.pth'), FileNotFoundError, 'no checkpoint at x'),
    (lambda own: semmae.load_backbone(config=PARTS), ValueError, 'expected a semmae.FrozenProbe'),
    (lambda own: semmae.load_backbone('vit_tiny_patch16_224', 'weights/dinov2_vits14.safetensors'),
     ValueError, 'does not fit'),
    (lambda own: semmae.embed(own, 'none'), FileNotFoundError, 'no image folder at none'),
    (lambda own: semmae.embed(own, ['none.jpg']), FileNotFoundError, 'no image at none.jpg'),
    (lambda own: semmae.embed(own, []), ValueError, 'empty list of images'),
    (lambda own: semmae.embed(own, 'photos', ['colour']), ValueError, 'expected some of class'),
    (lambda own: semmae.encoder_parts(own, 'photos', source='learned'), ValueError,
     'expected one of heads'),
    (lambda own: semmae.embed(own, 'photos', batch_size=0), ValueError, 'batch_size is 0, expe'),
    (lambda own: semmae.embed(own, 'photos', num_workers=-1), ValueError, 'num_workers is -1,'),
    (lambda own: semmae.encoder_parts(own, 'photos', 0), ValueError, 'num_parts is 0, expe'),
    (lambda own: semmae.encoder_parts(own, 'photos', grid=0), ValueError, 'grid is 0, expe'),
    (lambda own: semmae.encoder_parts(own, 'photos', grid=16.5), ValueError, 'grid is 16.5, expe'),
    (lambda own: semmae.encoder_parts(own, 'photos', object='border'), ValueError,
     "object is 'border', expected the config of an ObjectMap"),
    (lambda own: semmae.encoder_parts(own, 'bad.jpg'), ValueError, 'bad.jpg cannot be read'),
    (lambda own: semmae.learned_parts(PARTS, 'x.pth', 'photos'), FileNotFoundError, 'x.pth'),
    (lambda own: semmae.learned_parts('x.py', 'x.pth', 'photos'), FileNotFoundError, 'x.py'),
    (lambda own: semmae.predict(PARTS, f'{SEED}/parts/epoch_3.pth', 'photos'), ValueError,
     'predicts no classes'),
    (lambda own: semmae.tables('none'), FileNotFoundError, 'no such file or folder: none'),
    (lambda own: semmae.long_table('bad.jpg'), ValueError, 'holds no result')]


@pytest.mark.parametrize('call, error, told', MISTAKES, ids=[told for *_, told in MISTAKES])
def test_a_mistake_says_what_is_wrong(there, call, error, told):
    (there / 'bad.jpg').write_text('no image')
    own = semmae.load_backbone(checkpoint=f'{SEED}/semmae_p16/epoch_16.pth')
    with pytest.raises(error, match=re.escape(told)):
        call(own)


def test_a_result_that_cannot_be_read_is_a_warning(tmp_path):
    append_result(tmp_path / 'results.jsonl', a_record())
    with (tmp_path / 'results.jsonl').open('a') as f:
        f.write('{"cut": \n')
    with pytest.warns(UserWarning, match='results.jsonl'):
        assert len(semmae.long_table(tmp_path)) == 1


# ------------------------------------------------------------------ the import
def test_importing_semmae_loads_no_library_and_the_tables_load_no_torch(tmp_path):
    append_result(tmp_path / 'results.jsonl', a_record())
    code = ('import sys\nbefore = {*sys.modules}\nimport semmae\n'
            'print(sorted({m.partition(".")[0] for m in {*sys.modules} - before}))\n'
            f'semmae.tables({str(tmp_path)!r})\nprint("torch" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, text=True, capture_output=True)
    loaded, torch_too = done.stdout.splitlines()
    assert loaded in ("['semmae']", "['semmae', 'warnings']") and torch_too == 'False', done.stderr
