"""Weights & Biases and MLflow: one run for each work directory, which ``--resume`` continues.

mmengine's classes of these names start another run with each start. The id of a run is in a file of
the work directory (`FILES`), which a new training removes. A test adds to the run of its work
directory. Only the first process writes. Keys and passwords come from the environment; a config,
which is stored in many places, holds none.
"""
import os
import uuid
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from mmengine.visualization import MLflowVisBackend as MLflow
from mmengine.visualization import WandbVisBackend as Wandb

from ..files import write_atomically
from ..registry import VISBACKENDS

FILES = dict(wandb='wandb_run', mlflow='mlflow_run')


def forget(work_dir):
    """Remove the ids of an earlier training in this work directory."""
    for name in FILES.values():
        (Path(work_dir) / name).unlink(missing_ok=True)


def require(package):
    """An optional package as a module; ValueError if it is not installed."""
    if find_spec(package) is None:
        raise ValueError(f'the visualizer of this config needs {package}, which is not installed. '
                         f'Run: pip install {package}')
    return import_module(package)


def run_of(config, package, new):
    """(id of the run of the work directory, whether it is new); ``new()`` gives a new id."""
    path = Path(config.work_dir) / FILES[package]
    if is_new := not path.is_file():
        text = new()
        write_atomically(path, lambda f: f.write(text.encode()))
    return path.read_text(), is_new


@VISBACKENDS.register_module()
class WandbVisBackend(Wandb):
    """mmengine's backend for Weights & Biases, whose run continues. init_kwargs: of wandb.init.

    It uploads no code; mmengine's uploads every .py file below the working directory.
    """
    _init_kwargs: dict | None

    def add_config(self, config, **kwargs):
        require('wandb')
        run, _ = run_of(config, 'wandb', lambda: uuid.uuid4().hex[:8])
        self._init_kwargs = dict(id=run, resume='allow') | (self._init_kwargs or {})
        self.experiment.config.update(config.to_dict(), allow_val_change=True)


@VISBACKENDS.register_module()
class MLflowVisBackend(MLflow):
    """mmengine's backend for MLflow, whose run continues. tracking_uri: default a file of SQLite.

    The file is mlflow.db beside the work directory, with mlflow_files: ``mlflow ui
    --backend-store-uri sqlite:///work_dirs/mlflow.db``. Raises ValueError for a tracking_uri with a
    password.
    """
    _tracking_uri: str | None
    _exp_name: str | None
    _artifact_location: str | None

    def add_config(self, config, **kwargs):
        if self._tracking_uri is None:
            home = Path(config.work_dir).resolve().parent
            self._tracking_uri = f'sqlite:///{home}/mlflow.db'
            self._artifact_location = self._artifact_location or f'file://{home}/mlflow_files'
        if urlsplit(self._tracking_uri).password:
            raise ValueError('tracking_uri has a password, which would be stored with the config. '
                             'Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead')
        client = require('mlflow').MlflowClient(self._tracking_uri)
        self._exp_name = self._exp_name or 'semmae'  # MLflow's own stores files elsewhere
        found = client.get_experiment_by_name(self._exp_name)
        experiment = found.experiment_id if found else client.create_experiment(
            self._exp_name, self._artifact_location)
        os.environ['MLFLOW_RUN_ID'], is_new = run_of(config, 'mlflow', lambda: client.create_run(
            experiment, run_name=self._run_name or Path(config.work_dir).name).info.run_id)
        if not is_new:  # a parameter of a run cannot change
            self._tracked_config_keys = []
        super().add_config(config, **kwargs)

    def add_image(self, name, image, step=0, **kwargs):
        """Keeps the image of each step; mmengine's needs a suffix in the name."""
        self.experiment.log_image(image, key=name, step=step)
