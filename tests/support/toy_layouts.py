"""Settings that train a config of COCO, LVIS or Cityscapes for an epoch on a few small drawn images in its layout."""

from __future__ import annotations

from pathlib import Path


def toy_options(layout: str, root: Path, folder: Path) -> list[str]:
    """The settings, written KEY=VALUE; the model has its full size.

    Args:
        layout: ``'coco'``, ``'lvis'`` or ``'cityscapes'``. ``'coco'`` is for a detector of one stage, the others are
            for Mask R-CNN.
        root: The folder of the data.
        folder: Where Cityscapes' metric may write.
    """
    options = [
        f'data_root={root}',
        'model.backbone.init_cfg=None',
        'val_dataloader.dataset.pipeline.1.scale=(96,96)',
        'train_cfg.max_epochs=1',
        *[
            f'{split}_dataloader.{key}'
            for split in ('train', 'val')
            for key in ('num_workers=0', 'persistent_workers=False')
        ],
        'train_dataloader.batch_size=2',
        'default_hooks.checkpoint.interval=-1',
        'default_hooks.logger.interval=1',
    ]
    if layout == 'coco':
        return [*options, 'train_dataloader.dataset.pipeline.2.scale=(96,96)', 'model.test_cfg.score_thr=0.0']
    repeat = {'lvis': 'oversample_thr=0.001', 'cityscapes': 'times=1'}[layout]
    resize = {'lvis': 'scales=[(96,96)]', 'cityscapes': 'scale=[(96,96),(96,112)]'}[layout]
    options += [
        'load_from=None',
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=20',
        'model.test_cfg.rpn.max_per_img=20',
        'model.train_cfg.rpn_proposal.max_per_img=50',
        f'train_dataloader.dataset.{repeat}',
        f'train_dataloader.dataset.dataset.pipeline.2.{resize}',
    ]
    if layout == 'cityscapes':
        options.append(f'val_evaluator.1.outfile_prefix={folder}/predictions')
    return options
