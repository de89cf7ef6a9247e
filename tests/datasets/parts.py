"""Tiny copies of PartImageNet and Pascal-Part in their published layouts."""
import json

import numpy as np
from PIL import Image
from scipy.io import savemat

# Super-categories and parts in the order of the published category ids 0 to 39.
SUPER = dict(
    Quadruped='Head Body Foot Tail', Biped='Head Body Hand Foot Tail', Fish='Head Body Fin Tail',
    Bird='Head Body Wing Foot Tail', Snake='Head Body', Reptile='Head Body Foot Tail',
    Car='Body Tier Mirror', Bicycle='Body Head Seat Tier', Boat='Body Sail',
    Aeroplane='Head Body Engine Wing Tail', Bottle='Mouth Body')
CATEGORIES = [dict(id=number, supercategory=name, name=f'{name} {part}') for number, (name, part)
              in enumerate((n, p) for n, parts in SUPER.items() for p in parts.split())]
WIDTH, HEIGHT = 8, 6


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def annotation(image, category, segmentation, **more):
    return dict(dict(image_id=image, category_id=category, segmentation=segmentation, area=1,
                     iscrowd=0, bbox=[0, 0, 1, 1]), **more)


def photo(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(
        0, 255, (size[1], size[0], 3), np.uint8)).save(path)


def write_part_image_net(root, split='train', layout='seg', **changes):
    """Two annotated images, a fish and a quadruped, and one without an annotation."""
    places = dict(seg=(f'annotations/{split}/{split}.json', f'images/{split}/'),
                  ood=(f'{split}.json', f'{split}/n01440764/'))
    names = [f'n01440764_{i}.JPEG' for i in range(3)]
    content = dict(
        categories=CATEGORIES,
        images=[dict(id=i, file_name=name, width=WIDTH, height=HEIGHT)
                for i, name in enumerate(names)],
        annotations=[annotation(0, 10, [rectangle(1, 1, 4, 3)]),
                     annotation(0, 9, [rectangle(1, 1, 2, 2)]),
                     annotation(1, 0, dict(size=[HEIGHT, WIDTH], counts=[40, 2, 6]))])
    content.update(changes)
    path = root / places[layout][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for name in names:
        photo(root / places[layout][1] / name)
    return root


def mask(x, y, width, height, size=(WIDTH, HEIGHT)):
    """uint8 (H, W) with 1 in a rectangle."""
    found = np.zeros(size[::-1], np.uint8)
    found[y:y + height, x:x + width] = 1
    return found


def matlab(*rows):
    """A MATLAB struct array (1, N) of dicts; (0, 0) without one, as MATLAB writes []."""
    if not rows:
        return np.zeros((0, 0))
    found = np.zeros((1, len(rows)), [(key, object) for key in rows[0]])
    for i, row in enumerate(rows):
        for key, value in row.items():
            found[key][0, i] = value
    return found


def part(name, pixels):
    return dict(part_name=name, mask=pixels)


def thing(number, pixels, *parts):
    """An object of class ``number``, 1 to 20."""
    return {'class': f'class{number}', 'class_ind': number, 'mask': pixels,
            'parts': matlab(*parts)}


def write_pascal_part(root, name='2008_000001', things=None, split='train', size=(WIDTH, HEIGHT)):
    """An image with a dog (its head, two numbered parts of a car behind it) in a split."""
    things = (thing(7, mask(0, 0, 8, 2), part('wheel_1', mask(0, 1, 1, 1)),
                    part('wheel_2', mask(3, 1, 1, 1))),
              thing(12, mask(2, 1, 5, 4), part('head', mask(2, 1, 2, 2)))
              ) if things is None else things
    for folder in ('Annotations_Part', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    photo(root / f'JPEGImages/{name}.jpg', size)
    savemat(root / f'Annotations_Part/{name}.mat',
            dict(anno=matlab(dict(imname=name, objects=matlab(*things)))))
    with (root / f'ImageSets/Main/{split}.txt').open('a') as file:
        file.write(f'{name}\n')
    return root
