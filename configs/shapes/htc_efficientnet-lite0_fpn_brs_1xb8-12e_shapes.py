_base_ = ['./htc_efficientnet-lite0_fpn_ce_1xb8-12e_shapes.py', '../_base_/models/rank_based_rcnn.py']

# Masks keep the inherited cross-entropy per pixel.
model = dict(
    rpn_head=_base_.rank_based_rpn_head,
    roi_head=dict(
        type='RankBasedHTCRoIHead',
        stage_loss_weights=[1, 1, 1],
        bbox_head=[
            dict(
                head,
                type='RankBasedShared2FCBBoxHead',
                bbox_coder=dict(head.bbox_coder, target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_cls=dict(type='BucketedRSLoss'),
                loss_bbox=dict(type='GIoULoss'),
            )
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=[dict(head, type='RankBasedHTCMaskHead') for head in _base_.model.roi_head.mask_head],
    ),
    train_cfg=dict(
        rpn=_base_.rank_based_rcnn['train_cfg']['rpn'],
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, **_base_.rank_based_sampling))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=_base_.rank_based_rcnn['test_cfg'],
)
