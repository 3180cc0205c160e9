"""What a ranking loss changes in MMDetection's Faster and Mask R-CNN.

A config that inherits this file and one of MMDetection's uses ``model = _base_.rank_based_rcnn``, or
``rank_based_mask_rcnn``; a config of Cascade R-CNN uses its parts.
"""

# All proposals go through a box head: nothing is sampled.
rank_based_sampling = dict(num=1000000, pos_fraction=1.0)
rank_based_rpn_head = dict(
    type='RankBasedRPNHead',
    bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
    loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
    loss_bbox=dict(_delete_=True, type='GIoULoss'),
)
rank_based_rcnn = dict(
    rpn_head=rank_based_rpn_head,
    roi_head=dict(
        type='RankBasedRoIHead',
        bbox_head=dict(
            type='RankBasedShared2FCBBoxHead',
            loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
            loss_bbox=dict(_delete_=True, type='GIoULoss'),
        ),
    ),
    # All anchors, all proposals.
    train_cfg=dict(
        rpn=dict(sampler=dict(_delete_=True, type='PseudoSampler')),
        rcnn=dict(sampler=rank_based_sampling),
    ),
    # The published threshold. Ranking logits are no calibrated probabilities: choose your own on validation data.
    test_cfg=dict(rcnn=dict(score_thr=0.40)),
)
rank_based_mask_rcnn = dict(
    rank_based_rcnn,
    roi_head=dict(
        rank_based_rcnn['roi_head'],
        mask_head=dict(
            # With more than 200 positives on a GPU, 200 masks are drawn. Each keeps the weight of its own box; in the
            # published code, weights and masks of several images were in different orders.
            type='RankBasedFCNMaskHead',
            # Dice Loss, as published; MMDetection adds eps twice, which makes 1e-5. For cross-entropy per pixel write
            # loss_mask=dict(_delete_=True, type='CrossEntropyLoss', use_mask=True).
            loss_mask=dict(_delete_=True, type='DiceLoss', eps=5e-6),
        ),
    ),
)
# The three stages of Cascade R-CNN.
rank_based_cascade_stages = [
    dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=iou_thr,
            neg_iou_thr=iou_thr,
            min_pos_iou=iou_thr,
            match_low_quality=False,
            ignore_iof_thr=-1,
        ),
        sampler=dict(rank_based_sampling, type='RandomSampler', add_gt_as_proposals=True),
        pos_weight=-1,
        debug=False,
    )
    for iou_thr in (0.5, 0.6, 0.7)
]
