"""Weights & Biases and MLflow without a network: one run for each work directory."""
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from mmengine.config import Config

from semmae.registry import VISBACKENDS
from semmae.training import trackers
from semmae.training.resume import set_start

from ..tiny import config, tool, trained
from .test_stopping import told

SECRET = 'secret' * 7


def with_backend(folder, backend):
    """The tiny config with a backend, and a line of the log for each iteration."""
    return config(folder, "visualizer['vis_backends'] = [dict(type='LocalVisBackend'), "
                  f'dict({backend})]', "default_hooks['logger'] = dict(interval=1)")


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f'{package} is not installed')


def stopped_and_resumed(folder, backend):
    """Train with a signal in the eighth of 18 iterations, then resume; returns what was printed."""
    path = with_backend(folder, backend)
    code, said = trained(folder, path, told(signal.SIGTERM, after=8))
    assert code == 143, said
    code, more = trained(folder, path, resume=True)
    assert code == 0, more
    return said + more


def everything_below(folder):
    return b''.join(path.read_bytes() for path in Path(folder).rglob('*') if path.is_file())


@pytest.mark.slow
@needs('wandb')
def test_a_resumed_run_is_the_same_run_of_wandb_and_stores_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_API_KEY', SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own.py').write_text('# code of the user')
    stopped_and_resumed(tmp_path, "type='semmae.WandbVisBackend', init_kwargs=dict(project='p')")
    number = (tmp_path / 'work/wandb_run').read_text()
    runs = [path.name for path in (tmp_path / 'work').rglob('offline-run-*')]
    assert len(runs) == 2 and all(name.endswith(f'-{number}') for name in runs)
    found = everything_below(tmp_path / 'work')
    assert SECRET.encode() not in found and b'code of the user' not in found
    assert b'loss_good' in b''.join(p.read_bytes() for p in tmp_path.rglob(f'*{number}.wandb'))


@pytest.mark.slow
@needs('mlflow')
def test_a_resumed_run_is_the_same_run_of_mlflow_with_every_iteration_once(tmp_path):
    from mlflow import MlflowClient
    stopped_and_resumed(tmp_path, "type='semmae.MLflowVisBackend', run_name='first'")
    assert [*(tmp_path / 'mlflow_files').rglob('scalars.json')]
    client = MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    run, = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.run_id == (tmp_path / 'work/mlflow_run').read_text()
    assert run.info.run_name == 'first' and run.data.params['optim_wrapper.optimizer.lr'] == '0.01'
    steps = [point.step for point in client.get_metric_history(run.info.run_id, 'loss')]
    assert sorted(steps) == list(range(1, 19))


@pytest.mark.slow
@needs('mlflow')
def test_images_of_each_step_are_kept_by_mlflow(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    cfg = Config(dict(work_dir=str(tmp_path / 'work')))
    (tmp_path / 'work').mkdir()
    backend = VISBACKENDS.build(dict(type='semmae.MLflowVisBackend', save_dir=str(tmp_path)))
    backend.add_config(cfg)
    for step in (1, 2):
        backend.add_image('masks', np.zeros((8, 8, 3), np.uint8), step)
    backend.close()
    client = MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    run = client.get_run((tmp_path / 'work/mlflow_run').read_text())
    names = [file.path for file in client.list_artifacts(run.info.run_id, 'images')]
    assert run.info.status == 'FINISHED' and len([n for n in names if n.endswith('.png')]) == 2


def test_a_password_in_the_address_is_refused_before_it_is_stored(tmp_path):
    backend = VISBACKENDS.build(dict(type='semmae.MLflowVisBackend', save_dir=str(tmp_path),
                                     tracking_uri='https://me:word@host'))
    with pytest.raises(ValueError, match='MLFLOW_TRACKING_PASSWORD instead'):
        backend.add_config(Config(dict(work_dir=str(tmp_path))))


@pytest.mark.parametrize('name', ['Wandb', 'MLflow'])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, 'find_spec', lambda package: None)
    code, said = trained(tmp_path, with_backend(tmp_path, f"type='semmae.{name}VisBackend'"))
    assert code == 2 and f'Run: pip install {name.lower()}' in said and 'Traceback' not in said


def test_a_new_training_has_a_new_run_and_a_test_adds_to_it(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    (tmp_path / 'wandb_run').write_text('old')
    set_start(cfg, resume=False)
    assert trackers.run_of(cfg, 'wandb', lambda: 'new') == ('new', True)
    assert trackers.run_of(cfg, 'wandb', lambda: 'newer') == ('new', False)
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(ValueError, match='has checkpoints of a run'):
        set_start(cfg, resume=False)
    assert (tmp_path / 'wandb_run').read_text() == 'new'


def test_only_the_first_process_has_a_run(tmp_path, monkeypatch):
    """A process that starts a run writes its id."""
    monkeypatch.setattr(trackers, 'run_of', lambda config, *_: (
        Path(config.work_dir, f'rank{os.environ["RANK"]}').touch() or 'id', True))
    monkeypatch.setattr(trackers, 'require', lambda package: None)
    monkeypatch.setattr(trackers.WandbVisBackend, '_init_env', lambda self: setattr(
        self, '_wandb', MagicMock()))
    path = with_backend(tmp_path, "type='semmae.WandbVisBackend'")
    done = tool('train', path, '--work-dir', tmp_path / 'work', processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in (tmp_path / 'work').glob('rank*')] == ['rank0']
