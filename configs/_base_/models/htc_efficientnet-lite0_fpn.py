"""A CPU-sized Hybrid Task Cascade without its semantic branch, on the RPN of the CPU-sized Faster R-CNN."""

_base_ = './faster-rcnn_efficientnet-lite0_fpn.py'

model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type='Shared2FCBBoxHead',
                in_channels=96,
                fc_out_channels=256,
                roi_feat_size=5,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[centre, centre, size, size]
                ),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for centre, size in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
        ],
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=96,
            featmap_strides=[8, 16, 32],
        ),
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,
                num_convs=2,
                # The features of a stage are added to those of the next one.
                in_channels=96,
                conv_out_channels=96,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            )
            for with_conv_res in (False, True, True)
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
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou_thr in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.05, mask_thr_binary=0.5)),  # as the other small R-CNNs; MMDetection: 0.001
)
