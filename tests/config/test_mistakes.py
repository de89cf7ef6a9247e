"""A mistake in a config or an override is found before the first step, and said in one line."""
import argparse

import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE

from semmae.config.lookup import walk
from semmae.config.options import Options, read_config
from tests.reliability import resume

MINI = 'mm_configs/mini/semmae_pretrain_mini.py'


def parsed(*texts):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={})
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


@pytest.mark.parametrize('text, value', [
    ('1', 1), ('1e-3', 1e-3), ('true', True), ('None', None), ('a', 'a'), ('a,1', ['a', 1]),
    ('[1,2]', [1, 2]), ('(1, 2)', (1, 2)), ('[(1,2),[a]]', [(1, 2), ['a']]), ('[1]', [1]),
    ('my data/a b.pth', 'my data/a b.pth'), ('[my a, b]', ['my a', 'b']), ("'1,2'", '1,2'),
    ('"a, b"', 'a, b'), ('[]', []), ('x=y', 'x=y'), ('', ''),
    ("['x,y','z']", ['x,y', 'z']), ('"a","b"', ['a', 'b']), ("(['a,1'], '3')", (['a,1'], '3')),
    ("['a]', \"(\"]", ['a]', '(']), ("'a(b'", 'a(b'), ("'it's, b'", "it's, b"),
    ("it's, b", ["it's", 'b']), ("'[1,2]'", '[1,2]'), ("''", ''), ("'", "'"), ("['']", [''])])
def test_a_value_is_read_as_it_is_written(text, value):
    found = parsed(f'k={text}')['k']
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('text', ['k', 'k=[a', 'k=a)'])
def test_what_is_no_key_and_value_is_refused(text, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(text)
    assert ended.value.code == 2 and 'expected' in capsys.readouterr().err


@pytest.mark.parametrize('key, value, said', [
    ('model.backbon.img_size', 32, 'Did you mean model.backbone.img_size?'),
    ('modle.backbone.img_size', 32, 'Did you mean model.backbone.img_size?'),
    ('train_dataloader.dataset.dataset.pipeline.9.size', 3,
     r'has no such key.*pipeline\.0\.size'),
    ('model.backbone.img_size', 'abc', "got the text 'abc', expected a number, as 64"),
    ('resume', 'yes', "got the text 'yes', expected True or False"),
    ('qqqq', 1, 'It has .*model.* there')])
def test_an_override_that_does_not_fit_is_refused_with_the_nearest_key(key, value, said):
    with pytest.raises(ValueError, match=said):
        read_config(MINI, {key: value})


@pytest.mark.parametrize('config, key, value', [
    ('mini/semmae_pretrain_mini', 'model.masking.alpha_start', 1.),
    ('mini/semmae_pretrain_mini', 'model.backbone.rel_pos_bias', True),
    ('mini/semmae_pretrain_mini', 'optim_wrapper.accumulative_counts', 2),
    ('mini/semmae_pretrain_mini', 'train_dataloader.dataset.max_damaged', .1),
    ('mini/semmae_pretrain_mini', 'optim_wrapper.optimizer.amsgrad', True),
    ('mini/semmae_upernet_ade20k_mini', 'model.decode_head.sampler', None),
    ('mini/semmae_upernet_ade20k_mini',
     'train_dataloader.dataset.dataset.pipeline.4.direction', 'x'),
    ('semmae_finetune', 'model.backbone.init_cfg.checkpoint_key', 'student'),
    ('semmae_finetune', 'result.selected_from', 8),
    ('mini/semmae_parts_mini', 'model.encoder.checkpoint_key', 'student'),
    ('mini/semmae_finetune_mini', 'train_dataloader.dataset.min_length', 9),
    ('semmae_pretrain', 'optim_wrapper.clip_grad', {'max_norm': 1.}),
    ('semmae_pretrain', 'optim_wrapper.clip_grad.max_norm', 1.)])
def test_arguments_of_a_class_and_keys_that_messages_name_need_no_plus(config, key, value):
    cfg = read_config(f'mm_configs/{config}.py', {key: value})
    assert dict(walk(cfg.to_dict()))[key] == value


@pytest.mark.parametrize('key, value, said', [
    ('model.masking.alpha_strt', 1., 'Did you mean model.masking.alpha_start?'),
    ('model.masking.alpha_start', 'x', "got the text 'x', expected a number, as 0.0"),
    ('model.masking.seed', 1, 'has no such key'),
    ('img_size', 32, r'nothing reads this variable .*model\.backbone\.img_size'),
    ('_arch.embed_dims', 32, 'nothing reads this variable')])
def test_an_option_that_nothing_would_read_is_refused(key, value, said):
    with pytest.raises(ValueError, match=said):
        read_config(MINI, {key: value})


def test_a_plus_adds_a_key_and_optional_ones_need_none():
    cfg = read_config(MINI, {'+model.new.deep': 1, 'model.backbone.rel_pos_bias': True,
                             'optim_wrapper.loss_scale': 'dynamic'})
    assert cfg.model.new.deep == 1 and cfg.model.backbone.rel_pos_bias
    assert cfg.optim_wrapper.loss_scale == 'dynamic'


@pytest.mark.parametrize('name, text, said', [
    ('a.yaml', 'model: 1', 'a config of mmengine is a .py file'),
    ('a.py', 'model = (', 'cannot be read as a config: SyntaxError'),
    ('a.py', "_base_ = ['absent.py']", 'cannot be read as a config: .*absent.py'),
    ('a.py', 'x = 1 / 0', 'cannot be read as a config: ZeroDivisionError')])
def test_a_file_that_is_no_config_is_refused(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_config(tmp_path / name)


def test_a_base_config_of_mmseg_is_found_and_the_names_of_mmengine_stay(tmp_path):
    before = dict(MODULE2PACKAGE)
    (tmp_path / 'own.py').write_text(
        "_base_ = ['mmseg::vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py']\n")
    cfg = read_config(tmp_path / 'own.py')
    assert cfg.default_scope == 'mmseg' and cfg.train_cfg.max_iters == 160000
    assert before == MODULE2PACKAGE


# ------------------------------------------------------------------ before the first step
MISTAKES = {
    'pretrain': [
        ({'model.backbone.patch_size': 16}, 'decoder.grid is'),
        ({'model.backbone.img_size': 32}, 'decoder.grid is'),
        ({'model.decoder.patch_size': 4}, 'first sample does not go through the model'),
        ({'model.decoder.embed_dim': 48}, 'first sample does not go through the model'),
        ({'model.masking.mask_ratio': 1.5}, 'mask_ratio is 1.5'),
        ({'model.backbone.arch.num_heads': 5}, 'first sample does not go through the model'),
        ({'train_dataloader.batch_size': 0}, 'batch_size is 0, expected a whole number'),
        ({'train_dataloader.batch_size': 64}, 'images do not fill one batch'),
        ({'train_cfg.max_epochs': 2.5}, 'max_epochs is 2.5, expected a whole number'),
        ({'optim_wrapper.accumulative_counts': 0}, 'accumulative_counts is 0'),
        ({'default_hooks.checkpoint.interval': 0}, 'checkpoint.interval is 0'),
        ({'optim_wrapper.optimizer.type': 'AdamWW'}, 'cannot be built'),
        ({'model.type': 'semmae.Nothing'}, 'semmae.Nothing is not in the .* registry'),
        ({'+model.nothing': 3}, "unexpected keyword argument 'nothing'"),
        ({'log_level': 'LOUD'}, 'LOUD'),
        ({'train_dataloader.dataset.dataset.pipeline.0.size': 32}, r'images of \(32, 32\) pixels'),
        ({'train_dataloader.dataset.dataset.grid': 4}, 'for its mask, expected at least 64'),
        ({'train_dataloader.sampler.type': 'DefaultSampler'}, 'sampler is a DefaultSampler'),
        ({'train_dataloader.dataset.dataset.data_root': '/nowhere'}, 'no image folder'),
        ({'load_from': '/nowhere.pth'}, 'no checkpoint at /nowhere.pth')],
    'finetune': [
        ({'model.head.num_classes': 3}, 'num_classes is 3'),
        ({'model.head.in_channels': 48}, 'first sample does not go through the model'),
        ({'model.backbone.img_size': 32}, 'the pipeline makes images of'),
        ({'model.backbone.patch_size': 7}, 'leaves pixels over'),
        ({'model.data_preprocessor.num_classes': 3}, 'first sample does not go through')],
    'linprobe': [({'model.neck.input_features': 48}, 'first sample does not go through')],
    'parts': [({'model.num_parts': 0}, 'first sample does not go through')],
    'upernet': [
        ({'model.decode_head.num_classes': 3}, 'num_classes is 3'),
        ({'model.neck.embed_dim': 48}, 'first sample does not go through'),
        ({'model.decode_head.in_channels': [24, 24]}, 'cannot be built'),
        ({'train_dataloader.dataset.dataset.img_suffix': '.none'}, 'a data set has no images'),
        ({'model.auxiliary_head.in_index': 9}, 'first sample does not go through')]}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('mistakes')


@pytest.mark.slow
@pytest.mark.parametrize('task, options, said', [
    (task, *case) for task, some in MISTAKES.items() for case in some])
def test_a_mistake_is_refused_before_the_first_step(task, options, said, root, tmp_path):
    with pytest.raises(ValueError if 'no ' not in said[:3] else FileNotFoundError, match=said):
        resume.run(resume.config(task, root), tmp_path / 'work', options=options)
    assert not [*(tmp_path / 'work').glob('iter_*.pth')]


@pytest.mark.parametrize('task', resume.TASKS)
def test_looking_before_the_first_step_changes_nothing(task, root, tmp_path, monkeypatch):
    from semmae.recording import record
    seen = {}

    def checked(runner):
        before = {k: v.clone() for k, v in runner.model.state_dict().items()}
        state = torch.get_rng_state()
        look(runner)
        seen.update(weights=all(v.equal(before[k]) for k, v in runner.model.state_dict().items()),
                    random=state.equal(torch.get_rng_state()), training=runner.model.training)
        raise resume.Killed

    look = record.require_consistent
    monkeypatch.setattr(record, 'require_consistent', checked)
    with pytest.raises(resume.Killed):
        resume.run(resume.config(task, root), tmp_path / 'work')
    assert seen == dict(weights=True, random=True, training=True)
