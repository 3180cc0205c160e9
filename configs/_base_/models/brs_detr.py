"""The settings that turn Co-DETR into BRS-DETR (Sec. 5 and S.3.3). Inherit this and a Co-DETR config, and write
``model = _base_.brs_detr``, or ``_base_.brs_detr_published`` for what the published code trains besides."""

decoder_loss = dict(_delete_=True, type='BucketedRSLoss', loss_weight=2.0)
auxiliary_loss = dict(_delete_=True, type='BucketedRSLoss', loss_weight=5.0)
# Scaled to the ranking losses, whatever its weight.
box_loss = dict(_delete_=True, type='GIoULoss')

brs_detr = dict(
    bbox_head=dict(type='RankBasedCoDeformDETRHead', loss_cls=decoder_loss),
    rpn_head=dict(
        type='RankBasedRPNHead',
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=auxiliary_loss,
        loss_bbox=box_loss,
    ),
    roi_heads=dict(
        type='RankBasedCoRoIHead',
        bbox_head=dict(type='RankBasedShared2FCBBoxHead', loss_cls=auxiliary_loss, loss_bbox=box_loss),
    ),
    # Without centerness.
    dense_heads=dict(type='RankBasedCoATSSHead', loss_cls=auxiliary_loss, loss_bbox=box_loss),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=4.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        ),
        # Nothing is sampled: all anchors, all proposals.
        rpn=dict(sampler=dict(_delete_=True, type='PseudoSampler')),
        rcnn=dict(sampler=dict(num=1000000, pos_fraction=1.0)),
    ),
)

auxiliary_loss_published = dict(auxiliary_loss, box_weights='equal')
brs_detr_published = dict(
    brs_detr,
    # The published classifiers start at this probability. The default of the heads is 0.5, a bias of 0.
    bbox_head=dict(brs_detr['bbox_head'], classifier_prior=0.01),
    # The box losses of the auxiliary heads are plain means, not weighted by scores (box_weights='scores').
    #
    # The published RPN decodes its proposals with target_stds of 1, while its loss decodes with 0.1 and 0.2, which is a
    # mistake: IoUs are those of distorted boxes. Here both have 0.1 and 0.2. To train as published, write
    # rpn_head=dict(bbox_coder=dict(target_stds=[1.0] * 4), loss_stds=[0.1, 0.1, 0.2, 0.2]).
    rpn_head=dict(brs_detr['rpn_head'], loss_cls=auxiliary_loss_published),
    roi_heads=dict(
        brs_detr['roi_heads'], bbox_head=dict(brs_detr['roi_heads']['bbox_head'], loss_cls=auxiliary_loss_published)
    ),
    dense_heads=dict(brs_detr['dense_heads'], loss_cls=auxiliary_loss_published, classifier_prior=0.01),
    train_cfg=dict(
        brs_detr['train_cfg'],
        # Up to 4000 proposals train the R-CNN head, which has no effect on inference; Co-DETR has 1000.
        rpn_proposal=dict(max_per_img=4000),
        # Objects are not added to the proposals; add_gt_as_proposals=True of RandomSampler adds them.
        rcnn=dict(sampler=dict(_delete_=True, type='PseudoSampler')),
    ),
)
