_base_ = './cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=[dict(_base_.rank_based_bbox_head, loss_cls=dict(type='RSLoss'))] * 3),
)
