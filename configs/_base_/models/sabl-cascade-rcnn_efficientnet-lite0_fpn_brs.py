"""What a ranking loss changes in the CPU-sized Cascade R-CNN with side-aware boxes (SABL)."""

_base_ = ['./sabl-cascade-rcnn_efficientnet-lite0_fpn.py', './rank_based_rcnn.py']

model = dict(
    rpn_head=_base_.rank_based_rpn_head,
    roi_head=dict(
        type='RankBasedCascadeRoIHead',
        stage_loss_weights=[1, 1, 1],
        bbox_head=[
            dict(head, type='RankBasedSABLHead', loss_cls=dict(type='BucketedRSLoss', self_balancing=False))
            for head in _base_.model.roi_head.bbox_head
        ],
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
