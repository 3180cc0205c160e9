_base_ = './faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
)
