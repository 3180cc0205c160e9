"""A data set of drawn squares for a very small detector: its config, changes of its annotations, and command lines."""

from __future__ import annotations

import json

# What the tests give to the command ``bucketed-losses``; all other names are those of ``tools/NAME.py``.
VERBS = {
    'calibrate': ['calibrate'],
    'swap': ['swap'],
    'plot-ranks': ['plot-ranks'],
    'convert': ['convert', 'published'],
}
CLASSES = ('square', 'dot')
CONFIG = """
default_scope = 'mmdet'
custom_imports = dict(imports=['bucketed_losses.mmdet'])
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='BN'), init_cfg=None),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=4),
    bbox_head=dict(
        type='RankBasedRetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='BucketedRSLoss'), loss_bbox=dict(type='GIoULoss', reduction='none')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0,
                                 ignore_iof_thr=-1),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
data_root = 'FOLDER'
common = dict(type='CheckedCocoDataset', data_root=data_root, data_prefix=dict(img=''),
              metainfo=dict(classes=('square', 'dot')), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='train.json', filter_cfg=dict(filter_empty_gt=True), **common))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='val.json', test_mode=True, **common))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1), logger=dict(type='LoggerHook'))
"""


def program_of(tool):
    return 'bucketed-losses' if tool in VERBS else f'{tool}.py'


def changed(source, target, change):
    """A copy of an annotation file with a change of its content."""
    content = json.loads(source.read_text())
    change(content)
    target.write_text(json.dumps(content))
    return target


def training(data, tmp_path, *options):
    return [data / 'config.py', '--work-dir', tmp_path / 'run', '--cfg-options', *options]


def on_file(split, path):
    """Options that let the training, or the validation and the test, read another file."""
    if split == 'train':
        return [f'train_dataloader.dataset.ann_file={path}']
    parts = [f'{loop}_dataloader.dataset.ann_file={path}' for loop in ('val', 'test')]
    return [*parts, *(f'{loop}_evaluator.ann_file={path}' for loop in ('val', 'test'))]


def drop_category(*names):
    def change(content):
        gone = {entry['id'] for entry in content['categories'] if entry['name'] in names}
        content['categories'] = [entry for entry in content['categories'] if entry['id'] not in gone]
        content['annotations'] = [entry for entry in content['annotations'] if entry['category_id'] not in gone]

    return change


COMMON = dict(data_prefix=dict(img=''), pipeline=[])


def data_set(kind, path, classes=CLASSES, **more):
    return dict(type=kind, ann_file=str(path), metainfo=dict(classes=classes), **COMMON, **more)
