_base_ = './mask-rcnn_r50_fpn_brs_4xb4-sample1e-3-ms-1x_lvis-v1.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
)
