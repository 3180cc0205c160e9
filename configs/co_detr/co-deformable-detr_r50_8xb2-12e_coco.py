"""Co-Deformable-DETR as published: MMDetection's two-stage Deformable DETR with 300 queries, wider feed-forward layers
and no dropout, taught by Faster R-CNN and ATSS.

Images, multi-scale and crop, AdamW at 2e-4, the backbone's tenth of it and the clipping at norm 0.1 are those of
MMDetection's Deformable DETR.
"""

_base_ = 'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'

custom_imports = dict(imports=['bucketed_losses.mmdet'], allow_failed_imports=False)

num_dec_layers = 6
lambda_2 = 2.0
auxiliary_weight = num_dec_layers * lambda_2  # Eq. 15: the sum over layers of lambda_2 * L^Aux
ffn = dict(feedforward_channels=2048, ffn_drop=0.0)
no_dropout = dict(dropout=0.0)

model = dict(
    type='CoDETR',
    encoder=dict(layer_cfg=dict(self_attn_cfg=no_dropout, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=num_dec_layers,
        layer_cfg=dict(self_attn_cfg=no_dropout, cross_attn_cfg=no_dropout, ffn_cfg=ffn),
    ),
    bbox_head=dict(type='CoDeformDETRHead'),
    rpn_head=dict(
        type='RPNHead',
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0 * auxiliary_weight),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0 * auxiliary_weight),
    ),
    roi_heads=dict(
        type='CoStandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8, 16, 32, 64],
            finest_scale=112,
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            reg_decoded_bbox=True,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0 * auxiliary_weight),
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0 * auxiliary_weight),
        ),
    ),
    dense_heads=dict(
        type='CoATSSHead',
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0 * auxiliary_weight),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0 * auxiliary_weight),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0 * auxiliary_weight),
    ),
    # The query head's assigner is inherited.
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=4000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1,
            debug=False,
        ),
        dense=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    ),
    # head='roi0' or 'atss1' evaluates an auxiliary head in place of the query head.
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        dense=dict(
            nms_pre=1000, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100
        ),
    ),
)

train_dataloader = dict(batch_size=2, dataset=dict(type='CheckedCocoDataset'))
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1)]
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))
# 8 GPUs with 2 images each.
auto_scale_lr = dict(base_batch_size=16)
