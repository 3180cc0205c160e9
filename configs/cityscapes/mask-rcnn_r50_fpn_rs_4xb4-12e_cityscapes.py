_base_ = './mask-rcnn_r50_fpn_brs_4xb4-12e_cityscapes.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
)
