"""Decides which results may fill a paper cell: data set, size, network, training, recipe."""
from semmae.results import protocol

DATASETS = dict(linprobe='ImageNet-1k', finetune='ImageNet-1k', inat19='iNaturalist 2019',
                cub='CUB-200-2011', cars='Stanford Cars', ade20k='ADE20K')
SPLITS = ('val', 'validation', 'test')

# (width, layers) of the networks that the paper's tables name.
ARCHS = {'vit-tiny': (192, 12), 'vit-small': (384, 12), 'vit-base': (768, 12),
         'vit-large': (1024, 24), 'vit-huge': (1280, 32)}
# mmpretrain's names; its 'small' is 768 wide with 8 layers.
NAMES = {'deit-tiny': 'vit-tiny', 'deit-t': 'vit-tiny', 'deit-small': 'vit-small',
         'deit-s': 'vit-small', 'deit-base': 'vit-base', 'deit-b': 'vit-base', 'base': 'vit-base',
         'b': 'vit-base', 'large': 'vit-large', 'l': 'vit-large', 'huge': 'vit-huge',
         'h': 'vit-huge'}


def stands_apart(record):
    """Whether a result has a table of its own, because it is reduced or of another data set."""
    known = DATASETS.get(record['task'])
    return record['reduced'] or bool(known) and record['dataset'] != known


def obstacles(record, cell) -> list:
    """A short text for each reason why a result does not fill a cell of its row.

    A missing field is no reason, because other tools record fewer fields.
    """
    differs = ((record.get('pretraining') or {}).get('differs'), record.get('differs'))
    texts = [f'{field} {_value(own)} instead of {_value(wanted)}' for found in differs
             for field, (wanted, own) in (found or {}).items()]
    texts += [record['enlarged_why']] if record.get('enlarged_why') else []
    if not protocol.same_quantity(record, cell):
        texts.append(f"metric {record['metric']} in {record['unit'] or 'no unit'}")
    if record['split'] not in SPLITS:
        texts.append(f"split {record['split']}")
    found = network(record)
    texts += [f'{name} {found[key]} instead of {cell[key]}' for key, name in (
        ('patch_size', 'patch size'), ('pixels', 'pixels'), ('arch', 'arch'))
        if cell.get(key) and found[key] is not None and str(found[key]) != cell[key]]
    if cell.get('kind') and record.get('kind') not in (None, cell['kind']):
        texts.append(f"{record['kind']} instead of {cell['kind']}")
    pretraining = record['protocol'].get('pretraining')
    epochs = pretraining.get('epochs') if isinstance(pretraining, dict) else None
    if cell['epochs'] and epochs is not None and str(epochs) != cell['epochs']:
        texts.append(f"pre-trained for {epochs} epochs instead of {cell['epochs']}")
    return texts


def network(record) -> dict:
    """patch_size, pixels and arch of a result, None where not recorded."""
    model, measured = record.get('model') or {}, record['protocol']
    size = measured.get('input_size')
    size = size[0] if isinstance(size, list) and size else size
    pixels = model.get('pixels') or measured.get('model.backbone.img_size') or size
    sizes = model.get('width'), model.get('depth')
    if None in sizes:
        arch = measured.get('arch') or measured.get('model.backbone.arch')
        arch = NAMES.get(arch.lower(), arch) if isinstance(arch, str) else (
            f"{arch.get('embed_dims')} wide" if isinstance(arch, dict) else None)
    else:
        arch = next((name for name, known in ARCHS.items() if known == sizes),
                    f'{sizes[0]} wide with {sizes[1]} layers')
    return dict(arch=arch, pixels=pixels[0] if isinstance(pixels, list) and pixels else pixels,
                patch_size=model.get('patch_size') or measured.get('patch_size'))


def _value(value):
    return 'nothing' if value is None else value
