"""Tiny copies, in the published layout, of the data sets with a label for each pixel."""
import cv2
import numpy as np

# Folder, photo and label map of each split ({0}) and number ({1}), highest label, ignored label.
DENSE = dict(
    voc2012=('VOCdevkit/VOC2012', ['JPEGImages/{0}{1}.jpg', 'SegmentationClass/{0}{1}.png'], 20,
             255),
    pascal_context=('VOCdevkit/VOC2010', [
        'JPEGImages/{0}{1}.jpg', 'SegmentationClassContext/{0}{1}.png'], 59, 255),
    cityscapes=('cityscapes', ['leftImg8bit/{0}/aachen/a{1}_leftImg8bit.png',
                               'gtFine/{0}/aachen/a{1}_gtFine_labelTrainIds.png'], 18, 255),
    coco_stuff=('coco_stuff164k', [
        'images/{0}2017/1{1}.jpg', 'annotations/{0}2017/1{1}_labelTrainIds.png'], 170, 255),
    camvid=('CamVid', ['images/{0}/a{1}.jpg', 'annotations/{0}/a{1}.png'], 11, None),
    nyu=('nyu', ['images/{0}/a{1}_1.jpg', 'annotations/{0}/a{1}_1.png'], 9000, None))
LISTS = dict(voc2012='ImageSets/Segmentation', pascal_context='ImageSets/SegmentationContext')


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def copy_of(root, name, count=1, size=(4, 6)):
    """``count`` photos and maps in each split; returns the path of the first map.

    The left half of map i has the label i (NYUv2: i metres); the first map has none.
    """
    place, files, highest, ignored = DENSE[name]
    for split in ('train', 'test' if name == 'nyu' else 'val'):
        numbers = ['', *range(1, count)]
        for i, number in enumerate(numbers):
            labels = np.full(size, highest, np.uint16 if highest > 255 else np.uint8)
            labels[:, :size[1] // 2 if i else 0] = i * 1000 if name == 'nyu' else i
            labels[0, 0] = highest if ignored is None else ignored
            photo = np.full((*size, 3), 40 * i, np.uint8)
            photo[:, size[1] // 2:] //= 2
            save(root / place / files[0].format(split, number), photo)
            save(root / place / files[1].format(split, number), labels)
        if name in LISTS:
            path = root / place / LISTS[name] / f'{split}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(''.join(f'{split}{number}\n' for number in numbers))
    return root / place / files[1].format('train', '')
