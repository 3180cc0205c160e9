"""How well SOLOv2 ranks its cells, and how exact the masks of the cells that belong to objects are.

python tools/benchmarks/measure_solo_cells.py CONFIG CHECKPOINT [--cfg-options KEY=VALUE ...]

The images are those of ``val_dataloader``, whose pipeline must load masks and must not resize images. The head's own
assignment says which cells belong to objects. Printed are the average precision of the scores of all cells of all
images (the mean of the classes), the mean IoU of the masks of the assigned cells, and the share of IoUs above 0.75.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import conv2d

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)
from bucketed_losses.errors import one_line_errors
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options
from bucketed_losses.mmdet.models.dense_heads.positive_masks import mask_ious


class Cells(NamedTuple):
    """The cells of some images.

    Attributes:
        logits: ``(n, num_classes)`` class logits of all cells.
        labels: ``(n,)`` class indices, ``num_classes`` for cells without an object.
        ious: ``(num_masks,)`` IoUs of the masks of assigned cells; a cell has one for each of its objects.
    """

    logits: Tensor
    labels: Tensor
    ious: Tensor

    def average_precision(self) -> float:
        """The mean of the classes, without interpolation."""
        is_class = self.labels.unsqueeze(1) == torch.arange(self.logits.size(1))
        return float(average_precision_score(is_class.numpy(), self.logits.numpy(), average='macro'))


@torch.no_grad()
def cells_of(detector: BaseDetector, batch: dict) -> Cells:
    """The cells of a batch of a data loader."""
    batch = detector.data_preprocessor(batch)
    kernels, logits, features = detector.mask_head(detector.extract_feat(batch['inputs']))
    parts = []
    for image, sample in enumerate(batch['data_samples']):
        objects = sample.gt_instances
        objects.masks = objects.masks.pad(batch['inputs'].shape[-2:])
        masks, labels, _, indices = detector.mask_head._get_targets_single(objects, features.shape[-2:])
        ious = []
        for level_kernels, level_masks, cells in zip(kernels, masks, indices, strict=True):
            if len(cells):
                weights = level_kernels[image].flatten(1)[:, cells].t()[..., None, None]
                ious.append(mask_ious(conv2d(features[image : image + 1], weights)[0].sigmoid(), level_masks))
        parts.append(
            (
                torch.cat([level[image].flatten(1).t() for level in logits]),
                torch.cat([level.flatten() for level in labels]),
                torch.cat([features.new_empty(0), *ious]),
            )
        )
    return Cells(*(torch.cat(part) for part in zip(*parts, strict=True)))


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', metavar='CONFIG')
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], help='as for tools/train.py')
    args = parser.parse_args(argv)
    cfg = Config.fromfile(args.config)
    apply_options(cfg, parse_options(args.cfg_options))
    init_default_scope('mmdet')
    detector = MODELS.build(cfg.model).eval()
    load_checkpoint(detector, args.checkpoint, map_location='cpu')
    loader = Runner.build_dataloader(cfg.val_dataloader)
    cells = Cells(*(torch.cat(part) for part in zip(*(cells_of(detector, batch) for batch in loader), strict=True)))
    print('| AP of the cells | IoU of their masks | IoU above 0.75 |')
    print('|---|---|---|')
    print(f'| {cells.average_precision():.3f} | {cells.ious.mean():.3f} | {(cells.ious > 0.75).float().mean():.0%} |')


if __name__ == '__main__':
    main()
