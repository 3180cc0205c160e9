_base_ = './faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='aLRPLoss')), roi_head=dict(bbox_head=dict(loss_cls=dict(type='aLRPLoss')))
)
