"""Runs as users start them, from pre-training to tables: resumed, on two processes, through mim."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from semmae.checkpoints.read import read_checkpoint

from .conftest import random_store
from .tiny import REPO, tool

pytestmark = pytest.mark.slow  # starts processes
ENV = dict(os.environ, PYTHON=sys.executable, PYTHONWARNINGS='ignore', OMP_NUM_THREADS='1',
           PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
PRETRAIN = 'mm_configs/mini/semmae_p16_mini.py'
PARTS = 'mm_configs/mini/parts_painted_mini.py'
PROBE = 'mm_configs/mini/linprobe_p16_mini.py'
UPERNET = 'mm_configs/mini/semmae_upernet_ade20k_mini.py'
DATA = 'train_dataloader.dataset.dataset'
START = 'model.backbone.init_cfg.checkpoint'
CLASSES = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=8')


def run(*command):
    """The output of a command in processes of its own, as a launcher starts them."""
    done = subprocess.run(list(map(str, command)), cwd=REPO, env=ENV, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return done.stdout + done.stderr


def succeed(name, *arguments, processes=1):
    """The output of ``tools/<name>.py``, which ends with exit status 0."""
    done = tool(name, *arguments, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def options(toy, *more, store=None, batch_size=8):
    """Three epochs on 16 images, a checkpoint after each."""
    return ['--cfg-options', f'{DATA}.data_root={toy / "imagenet/train"}',
            f'{DATA}.part_store={store or toy / "parts/train_8"}',
            f'train_dataloader.batch_size={batch_size}', 'train_dataloader.dataset.min_length=0',
            'train_cfg.max_epochs=3', 'default_hooks.checkpoint.interval=1', *more]


def weights(path):
    return read_checkpoint(path)['state_dict']


def are_identical(work, reference):
    """Whether the last checkpoints of two runs hold bit-identical weights."""
    ours, theirs = weights(work / 'epoch_3.pth'), weights(reference / 'epoch_3.pth')
    return all(ours[k].equal(v) for k, v in theirs.items())


@pytest.fixture(scope='module')
def pretrained(toy, tmp_path_factory):
    """Three epochs of mini SemMAE on 16 images, uninterrupted, in one process."""
    work = tmp_path_factory.mktemp('one')
    succeed('train', PRETRAIN, '--work-dir', work, *options(toy))
    return work


def test_a_run_killed_and_resumed_ends_bit_identical(pretrained, toy, tmp_path):
    command = [sys.executable, 'tools/train.py', PRETRAIN, '--work-dir', str(tmp_path), '--resume',
               *options(toy, 'train_dataloader.num_workers=1')]
    process = subprocess.Popen(command, cwd=REPO, env=ENV, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (tmp_path / 'epoch_1.pth').exists() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / 'epoch_1.pth').exists() and not (tmp_path / 'epoch_3.pth').exists()
    assert 'resumed epoch: ' in succeed('train', *command[2:])
    assert are_identical(tmp_path, pretrained)


def test_two_processes_reach_the_weights_of_one_with_the_same_global_batch(
        pretrained, toy, tmp_path):
    run('bash', 'tools/dist_train.sh', PRETRAIN, 2, '--work-dir', tmp_path,
        *options(toy, batch_size=4))
    one, two = weights(pretrained / 'epoch_3.pth'), weights(tmp_path / 'epoch_3.pth')
    for name, value in one.items():
        ours = two[name]
        if name.endswith('qkv.bias'):
            # A bias of the keys adds the same to all logits of a query, so its gradient is 0 but
            # for rounding, which Adam's normalisation makes visible: left out.
            ours, value = (torch.cat([x[:len(x) // 3], x[2 * len(x) // 3:]]) for x in (ours, value))
        torch.testing.assert_close(ours, value, rtol=1e-5, atol=1e-7, msg=name)


def test_another_part_store_ends_in_other_weights(pretrained, toy, tmp_path):
    """The negative control of the two tests above."""
    random_store(toy / 'imagenet/train', tmp_path / 'store', 8, seed=1)
    succeed('train', PRETRAIN, '--work-dir', tmp_path / 'run',
            *options(toy, store=tmp_path / 'store'))
    assert not are_identical(tmp_path / 'run', pretrained)


def part_options(toy, encoder, batch_size=8):
    return ['--cfg-options', f'{DATA}.data_root={toy / "imagenet/train"}',
            f'model.encoder.checkpoint={encoder}', f'train_dataloader.batch_size={batch_size}',
            'train_dataloader.dataset.min_length=0']


@pytest.fixture(scope='module')
def learned(pretrained, toy, tmp_path_factory):
    """Three epochs of mini part learning on 16 images."""
    work = tmp_path_factory.mktemp('parts')
    succeed('train', PARTS, '--work-dir', work, *part_options(toy, pretrained / 'epoch_3.pth'))
    return work


def test_part_learning_on_two_processes_reaches_the_parts_and_health_of_one(
        learned, pretrained, toy, tmp_path):
    succeed('train', PARTS, '--work-dir', tmp_path,
            *part_options(toy, pretrained / 'epoch_3.pth', batch_size=4), processes=2)
    one, two = weights(learned / 'epoch_3.pth'), weights(tmp_path / 'epoch_3.pth')
    for name, value in one.items():  # sums over two processes round otherwise
        assert (two[name] - value).norm() <= 1e-5 * value.norm(), name
    mine, theirs = (json.loads((work / 'part_health.jsonl').read_text().splitlines()[-1])
                    for work in (learned, tmp_path))
    assert mine['coverage'] == pytest.approx(theirs['coverage'], abs=1e-6)
    assert mine['entropy'] == pytest.approx(theirs['entropy'], abs=1e-5)


def test_part_learning_stopped_after_an_epoch_and_resumed_ends_bit_identical(
        learned, pretrained, toy, tmp_path):
    shutil.copy(learned / 'epoch_2.pth', tmp_path)
    assert 'resumed epoch: 2' in succeed(
        'train', PARTS, '--work-dir', tmp_path, '--resume',
        *part_options(toy, pretrained / 'epoch_3.pth'))
    assert are_identical(tmp_path, learned)


def test_part_quality_on_two_processes_is_that_of_one(learned, toy, tmp_path):
    command = [PARTS, learned / 'epoch_3.pth', '--masks', toy / 'imagenet/val',
               toy / 'imagenet/part_labels/val', '--name', 'toy', '--rows', 'learned',
               'kmeans-pooled', '--work-dir']
    succeed('part_quality', *command, tmp_path / 'one')
    succeed('part_quality', *command, tmp_path / 'two', processes=2)
    one, two = ({(x['row'], x['metric']): x['value'] for x in lines(tmp_path / name)}
                for name in ('one', 'two'))
    assert one == two and len(one) > 20


@pytest.fixture(scope='module')
def probed(pretrained, toy, tmp_path_factory):
    """A linear probe of the pre-trained weights, one epoch."""
    work = tmp_path_factory.mktemp('probe')
    probe(toy, work, pretrained / 'epoch_3.pth')
    return work


def probe(toy, work, checkpoint, *more):
    return succeed('train', PROBE, '--work-dir', work, *more, '--cfg-options', *CLASSES,
                   *labelled(toy), f'{START}={checkpoint}')


def labelled(toy):
    return [f'{DATA}.data_root={toy / "imagenet/train"}',
            f'val_dataloader.dataset.data_root={toy / "imagenet/val"}',
            f'test_dataloader.dataset.data_root={toy / "imagenet/val"}']


def lines(work):
    return [json.loads(line) for line in (work / 'results.jsonl').read_text().splitlines()]


def test_a_result_names_its_pretraining_and_everything_behind_it(probed, pretrained):
    (line,) = lines(probed)
    assert line['row'] == 'linprobe/semmae_p16' and line['method'] == 'SemMAE'
    assert line['checkpoint'].endswith('epoch_1.pth')
    assert line['metric'] == 'accuracy/top1' and 0 <= line['value'] <= 100
    assert line['load_report']['path'] == str(pretrained / 'epoch_3.pth')
    assert line['reduced'] and '3 of 800 epochs' in line['reduced_why']
    assert '64 of 224 pixels' in line['reduced_why']
    assert line['protocol']['pretraining']['epochs'] == 3
    assert line['protocol'][f'{DATA}.pipeline.1.type'] == 'RandomResizedCrop'
    assert line['pretraining']['identity']['model.masking.gamma'] == 2
    assert line['pretraining']['identity']['parts.num_parts'] == 6
    assert line['kind'] == 'frozen' and line['model']['width'] == 96


def test_testing_the_checkpoint_again_gives_the_same_number_and_row(probed, toy, tmp_path):
    succeed('test', PROBE, probed / 'epoch_1.pth', '--work-dir', tmp_path, '--cfg-options',
            *labelled(toy))
    (line,), (first,) = lines(tmp_path), lines(probed)
    for key in ('row', 'value', 'fingerprint', 'epochs', 'reduced_why', 'checkpoint_sha256'):
        assert line[key] == first[key], key


def test_a_checkpoint_from_half_way_counts_the_epochs_that_were_done(pretrained):
    facts = read_checkpoint(pretrained / 'epoch_2.pth')['meta']['semmae']
    assert facts['epochs'] == 2 and '2 of 800 epochs' in facts['reduced_why']


def test_weights_fine_tuned_in_between_are_not_credited_to_the_pretraining(probed, toy, tmp_path):
    probe(toy, tmp_path, probed / 'epoch_1.pth')
    assert lines(tmp_path)[0]['row'] == 'linprobe/semmae_p16+linprobe'


def test_a_run_stopped_before_its_evaluation_is_evaluated_when_it_is_resumed(
        probed, pretrained, toy, tmp_path):
    shutil.copy(probed / 'epoch_1.pth', tmp_path)
    probe(toy, tmp_path, pretrained / 'epoch_3.pth', '--resume')
    assert lines(tmp_path)[0]['value'] == lines(probed)[0]['value']


def test_a_run_is_not_resumed_with_another_seed_or_batch(pretrained, toy, tmp_path):
    shutil.copy(pretrained / 'epoch_2.pth', tmp_path)
    done = tool('train', PRETRAIN, '--work-dir', tmp_path, '--resume', '--seed', 1,
                *options(toy, batch_size=4))
    assert done.returncode == 2
    assert 'seed 0, now 1; batch_size 8, now 4' in done.stderr


def test_the_tables_show_it_as_reduced_apart_from_the_papers_numbers(probed):
    said = succeed('make_tables', probed, '--measured')
    row = next(r for r in said.splitlines() if 'linprobe/semmae_p16' in r)
    assert f'{lines(probed)[0]["value"]:.2f} (n=1)' in row and 'reduced' in row
    assert '65.0 ' not in row and 'not comparable with the paper' in said


def test_mim_test_runs_classification_through_semmae_and_segmentation_through_mmseg(
        probed, pretrained, toy, tmp_path):
    ade = toy / 'ADEChallengeData2016'
    sets = [f'{key}.data_root={ade}' for key in (
        DATA, 'val_dataloader.dataset', 'test_dataloader.dataset')]
    succeed('train', UPERNET, '--work-dir', tmp_path / 'seg', '--cfg-options',
            'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
            'default_hooks.checkpoint.interval=2', 'train_dataloader.batch_size=2', *sets,
            f'{START}={pretrained / "epoch_3.pth"}')
    mim = Path(sys.executable).parent / 'mim'
    for package, config, trained, name, data in (
            ('mmsegmentation', UPERNET, tmp_path / 'seg', 'iter_2.pth', sets),
            ('semmae', PROBE, probed, 'epoch_1.pth', labelled(toy))):
        run(mim, 'test', package, config, '--checkpoint', trained / name, '--work-dir',
            tmp_path / package, '--cfg-options', *data)
        (line,), (first,) = lines(tmp_path / package), lines(trained)
        assert (line['row'], line['value']) == (first['row'], first['value'])


@pytest.mark.parametrize('command, complaint', [
    (['train', 'mm_configs/nothing.py'], 'no config at mm_configs/nothing.py'),
    (['train', PRETRAIN, '--cfg-options', 'model.backbon.depth=3'],
     'model.backbon.depth.* has no such key'),
    (['test', PRETRAIN, 'nothing.pth'], 'no checkpoint at nothing.pth'),
    (['make_tables', 'nothing'], 'no such file or folder: nothing')])
def test_a_mistake_ends_in_one_line_and_status_2(command, complaint):
    done = tool(*command)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr), done.stderr[-1500:]
    assert 'Traceback' not in done.stderr


def test_launchers_take_paths_with_spaces_and_refuse_a_wrong_number():
    for arguments, complaint in (((PRETRAIN, 'two'), "'two'"),
                                 (('my configs/a b.py', 1), 'no config at my configs/a b.py')):
        done = subprocess.run(['bash', 'tools/dist_train.sh', *map(str, arguments)], cwd=REPO,
                              env=ENV, capture_output=True, text=True)
        assert done.returncode == 2 and complaint in done.stderr
