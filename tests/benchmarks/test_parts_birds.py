"""Parts of birds: every variant is trained on the training images and measured on the others."""
import json

import pytest
import torch

from benchmarks import parts_birds
from benchmarks.parts_birds import METRICS, VARIANTS
from semmae.registry import MODELS
from semmae.results.results import read_results

VIT = dict(type='semmae.ViT', img_size=32, patch_size=8,
           arch=dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=48))


@pytest.fixture
def arguments(toy, tmp_path):
    torch.manual_seed(0)
    vit = MODELS.build(VIT)
    vit.init_weights()
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    (tmp_path / 'parts.py').write_text(
        f"model = dict(encoder=dict(type='semmae.PartEncoder', backbone={VIT}))\n")
    return ['--encoder', str(tmp_path / 'vit.pth'), '--config', str(tmp_path / 'parts.py'),
            '--data', str(toy / 'CUB_200_2011'), '--out', str(tmp_path / 'out'), '--grid', '8',
            '--steps', '2', '--best', '1', '--last', '2', '--object-layer', '0', '--seeds', '0']


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / 'out/results.jsonl').read_text().splitlines()]


def test_variants_of_both_layers_are_measured_once(arguments, tmp_path, capsys, monkeypatch):
    parts_birds.main([*arguments, '--only', '12 parts', 'unlike', 'middle'])
    found = lines(tmp_path)
    names = {line['method'] for line in found}
    wanted = [name for name in VARIANTS if '12 parts' in name]
    assert {f'{name}, layer {n}' for name in wanted for n in (2, 3)} <= names
    assert {'near to the middle', 'unlike the border, layer 1', 'unlike the border, layer 3',
            'unlike the border and attention, layer 3'} <= names
    assert {line['metric'] for line in found} == {*METRICS}
    assert all(0 <= line['value'] for line in found if line['metric'].endswith(('NMI', 'AUC')))
    assert 'object first' in (tmp_path / 'out/table.md').read_text()
    trained = []
    monkeypatch.setattr(parts_birds, 'train', lambda *_: trained.append(1))
    parts_birds.main([*arguments, '--only', '12 parts', 'unlike', 'middle'])
    assert not trained and lines(tmp_path) == found  # nothing is measured twice


def test_each_seed_of_one_encoder_counts(arguments, tmp_path):
    words = [*arguments[:-1], '0', '1', '--only', 'learned, painted, 6', 'cells, 6']
    parts_birds.main(words)
    found = [r for r in read_results([tmp_path / 'out'])[0] if r['metric'] == 'landmarks/NMI'
             and r['method'] == 'learned, painted, 6 parts, layer 2']
    assert sorted(r['seed'] for r in found) == [0, 1]
    table = (tmp_path / 'out/table.md').read_text()
    assert table.index('learned, painted') < table.index('fixed cells')  # the order of the module
    line, = [line for line in table.splitlines() if 'learned, painted, 6 parts, layer 2' in line]
    assert line.count('±') == 4


def test_learners_train_on_training_images_only(arguments, tmp_path, monkeypatch):
    seen = set()
    original = parts_birds.look

    def look(model, split, ids):
        if model.training:
            seen.update(ids.tolist())
        original(model, split, ids)
    monkeypatch.setattr(parts_birds, 'look', look)
    truths, encode = [], parts_birds.encode

    def keep(args):
        found = encode(args)
        truths.extend(found[2])
        return found
    monkeypatch.setattr(parts_birds, 'encode', keep)
    parts_birds.main([*arguments, '--only', 'learned, painted, 6'])
    assert seen and all(truths[i]['is_train'] for i in seen)
    assert not all(truth['is_train'] for truth in truths)


def test_a_cached_encoder_gives_what_the_encoder_gives(arguments, tmp_path):
    args = parts_birds.parse(arguments)
    cache, images, _, patches = parts_birds.encode(args)
    model = parts_birds.learner(args, cache, patches['layer 2'], 0)
    ids = torch.tensor([3, 5])
    parts_birds.look(model, None, ids)
    seen = model.encoder.look(images[ids], token_layers=(0,), attention_layers=(-1,))
    assert seen.patches.equal(patches['layer 2'][ids].float())
    assert seen.tokens[0].shape == (2, 64, 24) and seen.attention[-1].shape == (2, 3, 64)


def test_the_encoders_output_is_read_from_its_file_and_refused_for_other_arguments(
        arguments, tmp_path, monkeypatch):
    words = [*arguments, '--cache', str(tmp_path / 'cache.pt')]
    first = parts_birds.cached(parts_birds.parse(words))
    monkeypatch.setattr(parts_birds, 'encode', lambda _: 1 / 0)
    again = parts_birds.cached(parts_birds.parse([*words, '--steps', '9']))
    assert again[1].equal(first[1]) and again[3]['layer 3'].equal(first[3]['layer 3'])
    with pytest.raises(ValueError, match='give another --cache'):
        parts_birds.cached(parts_birds.parse([*words, '--best', '0']))
