_base_ = './faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py'

# The published aLRP Loss of the RPN has tau 0.7, the IoU of its positive anchors, and 0.5 elsewhere.
model = dict(
    rpn_head=dict(loss_cls=dict(type='aLRPLoss', tau=0.7)),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='aLRPLoss'))),
)
