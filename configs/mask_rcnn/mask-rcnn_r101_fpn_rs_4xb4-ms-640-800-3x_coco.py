_base_ = './mask-rcnn_r101_fpn_brs_4xb4-ms-640-800-3x_coco.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
)
