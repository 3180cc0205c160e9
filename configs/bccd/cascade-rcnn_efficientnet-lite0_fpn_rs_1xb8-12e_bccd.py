_base_ = './cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'

bbox_head = _base_.bbox_head
bbox_head['loss_cls'] = dict(type='RSLoss')
model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=[bbox_head, bbox_head, bbox_head]),
)
