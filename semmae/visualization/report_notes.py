"""Title and notes of a report, from its records alone."""
from collections import defaultdict

from ..reporting.cells import network
from ..reporting.report import plural

REDUCED = ('Reduced runs show that every stage runs and learns. They are not comparable with the '
           "paper's numbers and do not say which method is better at the paper's size.")
FEW = 6  # sizes or reasons that a note names one by one


def few(texts, between=', '):
    """The first texts in their order, each once, and the number of the others."""
    texts = list(dict.fromkeys(texts))
    more = [f'and {len(texts) - FEW} more'] if len(texts) > FEW else []
    return between.join(texts[:FEW] + more)


def title_of(folder, records):
    """The title of a report: the data sets of its results, else its folder.

    Data sets of part quality count only if there is no other.
    """
    others = [record for record in records if not record['task'].startswith('parts')]
    datasets = few(sorted({record['dataset'] for record in others or records}), '; ')
    return f'Results on {datasets}' if datasets else f'Pictures of {folder.resolve().name}'


def about(records):
    """Texts on the results: seeds, images, networks, what is reduced and how."""
    seeds = len({record['seed'] for record in records if record['seed'] is not None})
    known = [network(record) for record in records]
    pixels = sorted({int(found['pixels']) for found in known
                     if str(found['pixels']).isdecimal()})
    networks = few(sorted(network_in_words(*pair) for pair in zip(records, known)
                          if pair[1]['arch']))
    said = [plural(seeds, 'seed') if seeds else '',
            f'images of {few(map(str, pixels))} pixels a side' if pixels else '',
            f'networks: {networks}' if networks else '']
    text = '; '.join(text for text in said if text)
    texts = [f'{text[0].upper()}{text[1:]}.'] if text else []
    reduced = [record for record in records if record['reduced']]
    if reduced:
        number = 'All results' if len(reduced) == len(records) else (
            f'{len(reduced)} of {len(records)} results')
        texts.append(f"{number} are reduced, smaller than the paper's. {reasons(reduced)}")
        texts += [REDUCED] if len(reduced) == len(records) else []
    return texts


def network_in_words(record, found):
    """'96 wide with 4 layers, 8x8 patches, 0.46 million parameters', as far as it is recorded."""
    parameters, patch = (record.get('model') or {}).get('parameters'), found['patch_size']
    return ', '.join(text for text in (
        str(found['arch']), f'{patch}x{patch} patches' if patch else '',
        f'{parameters / 1e6:.2g} million parameters' if parameters else '') if text)


def reasons(reduced):
    """How results are reduced: a sentence for pre-training and for each task."""
    seen = defaultdict(list)
    for record in reduced:
        for text in filter(None, (record.get('reduced_why') or '').split('; ')):
            why = text.removeprefix('pre-training: ')
            seen['Pre-training' if why != text else
                 f"{record['task']} on {record['dataset']}"].append(why)
    order = sorted(seen, key=lambda name: (name != 'Pre-training', name))
    return few([f'{name}: {few(seen[name], "; or ")}.' for name in order], ' ') or (
        'The records do not say in what.')
