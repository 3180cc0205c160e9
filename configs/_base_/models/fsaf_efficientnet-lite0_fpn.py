"""A CPU-sized FSAF: the CPU-sized RetinaNet with FSAF's head, which has one box per point and no anchors."""

_base_ = './retinanet_efficientnet-lite0_fpn.py'

model = dict(
    type='FSAF',
    bbox_head=dict(
        type='FSAFHead',
        reg_decoded_bbox=True,
        # One square per point stands for the grid.
        anchor_generator=dict(octave_base_scale=1, scales_per_octave=1, ratios=[1.0]),
        bbox_coder=dict(_delete_=True, type='TBLRBBoxCoder', normalizer=4.0),
        loss_cls=dict(reduction='none'),
        loss_bbox=dict(_delete_=True, type='IoULoss', eps=1e-6, loss_weight=1.0, reduction='none'),
    ),
    train_cfg=dict(
        assigner=dict(_delete_=True, type='CenterRegionAssigner', pos_scale=0.2, neg_scale=0.2, min_pos_iof=0.01),
    ),
)
