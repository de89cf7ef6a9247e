"""The outputs of an evaluation as a file of predictions (`results.predictions`)."""
import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
from mmengine.dist import barrier, collect_results, is_main_process
from PIL import Image

from ..files import write_atomically
from ..results.predictions import PAIRS, confused_pixels, pixel_counts, stacked

FOLDER = 'predictions'


class Predictions:
    """Collects the predictions of one evaluation on every process; `write` stores them once.

    The file is named by its content, ``predictions/3f2a9c0d1e4b.npz``, so that a line of
    results.jsonl never points at the predictions of another evaluation in the same folder.

    log_dir: this run's own folder below ``work_dir``, for unfinished files.
    """

    def __init__(self, work_dir, dataset, log_dir):
        self.folder, self.rows = Path(work_dir) / FOLDER, []
        self.unfinished = Path(log_dir) / FOLDER
        self.dataset, self.root = dataset, root_of(dataset)
        if is_main_process():
            shutil.rmtree(self.unfinished, ignore_errors=True)
        barrier()

    def add(self, samples):
        """Add data samples of mmpretrain or mmseg, as a model returns them; ignores others."""
        for sample in samples:
            if 'pred_sem_seg' in sample:
                self.rows.append(self.of_segmentation(sample))
            elif 'pred_score' in sample and 'gt_label' in sample:
                # topk and not argmax: ties are then broken as in mmpretrain's Accuracy.
                score, predicted = sample.pred_score.float().cpu().topk(1)
                self.rows.append(dict(
                    images=self.name_of(sample), labels=sample.gt_label.item(),
                    predicted=predicted.item(), score=np.float32(score.item())))

    def of_segmentation(self, sample):
        name = self.name_of(sample)
        predicted, label = (getattr(sample, key).data.squeeze(0).cpu().numpy().astype(np.int64)
                            for key in ('pred_sem_seg', 'gt_sem_seg'))
        try:
            ignored = getattr(self.dataset, 'ignore_index', 255)
            counts = pixel_counts(predicted, label, len(self.dataset.metainfo['classes']), ignored)
            counts[PAIRS] = confused_pixels(predicted, label, ignored)
        except ValueError as error:
            raise ValueError(f'{sample.img_path}: {error}') from error
        path = (self.unfinished / name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        label_map = Image.fromarray(predicted.astype(np.uint8 if predicted.max() < 256
                                                     else np.uint16))
        palette = self.dataset.metainfo.get('palette')
        if palette and label_map.mode == 'L':
            label_map.putpalette(np.array(palette, np.uint8).tobytes())
        label_map.save(path)
        return dict(images=name, **counts)

    def name_of(self, sample):
        path = Path(sample.img_path)
        return (path.relative_to(self.root).as_posix() if path.is_relative_to(self.root)
                else path.name)

    def write(self):
        """Gather and store; returns (path below the work directory, arrays).

        (None, None) without predictions, and on all processes but the first. All must call it.
        """
        rows = collect_results(self.rows, len(self.dataset))
        if not is_main_process() or not rows:
            return None, None
        arrays: dict = stacked(rows)
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        name = hashlib.sha256(content.getvalue()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.unfinished.is_dir():
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.unfinished.rename(self.folder / name)
        write_atomically(self.folder / f'{name}.npz', lambda f: f.write(content.getvalue()))
        return f'{FOLDER}/{name}.npz', arrays


def root_of(dataset):
    """The folder of the images of a data set."""
    prefix = getattr(dataset, 'data_prefix', None) or {}
    return Path(prefix.get('img_path') or getattr(dataset, 'data_root', None) or '.')
