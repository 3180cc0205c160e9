"""A CPU-sized Cascade R-CNN with side-aware boxes (SABL): three heads on the RPN of the CPU-sized Faster R-CNN."""

_base_ = './faster-rcnn_efficientnet-lite0_fpn.py'

model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type='SABLHead',
                num_classes=80,
                cls_in_channels=96,
                reg_in_channels=96,
                roi_feat_size=5,
                reg_feat_up_ratio=2,
                reg_pre_kernel=3,
                reg_post_kernel=3,
                reg_pre_num=2,
                reg_post_num=1,
                cls_out_channels=256,
                reg_offset_out_channels=96,
                reg_cls_out_channels=96,
                num_cls_fcs=1,
                num_reg_fcs=0,
                reg_class_agnostic=True,
                norm_cfg=None,
                # A bucket for each column and row of the upsampled features.
                bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=10, scale_factor=scale_factor),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
                loss_bbox_reg=dict(type='SmoothL1Loss', beta=0.1, loss_weight=1.0),
            )
            for scale_factor in (1.7, 1.5, 1.3)
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=iou_thr,
                    neg_iou_thr=iou_thr,
                    min_pos_iou=iou_thr,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                pos_weight=-1,
                debug=False,
            )
            for iou_thr in (0.5, 0.6, 0.7)
        ],
    ),
)
