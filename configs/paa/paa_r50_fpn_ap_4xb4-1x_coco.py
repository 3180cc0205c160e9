_base_ = './paa_r50_fpn_brs_4xb4-1x_coco.py'

# As published: interpolated precisions, delta 0.5 (1.0 in ATSS), a box loss of weight 1, which is not self-balanced.
model = dict(bbox_head=dict(loss_cls=dict(type='APLoss', delta=0.5, interpolated=True)))
