"""Published for a detector that was trained on Objects365 before: larger images, more denoising queries, less noise.

Set ``load_from`` to a checkpoint trained on Objects365. ``bucketed-losses convert co-detr --partial`` gives the
published one (``co_dino_5scale_swin_large_22e_o365``) the names of this package. It has 365 classes, so these start
anew: the classifiers, the label embedding of the denoising queries, and the regression of the RoI head, which has boxes
for each class. The command lists them.
"""

_base_ = './co-dino-5scale_swin-l_16xb1-12e_coco.py'

model = dict(
    backbone=dict(with_cp=True),
    dn_cfg=dict(box_noise_scale=0.4, group_cfg=dict(num_dn_queries=500)),
)

scales = [(480 + 32 * step, 2048) for step in range(34)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 1280), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-4))
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8], gamma=0.1)]
