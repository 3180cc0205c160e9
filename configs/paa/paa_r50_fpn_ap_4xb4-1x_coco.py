_base_ = './paa_r50_fpn_brs_4xb4-1x_coco.py'

# The box loss keeps PAA's weight of 1.3: AP losses are not self-balanced.
model = dict(bbox_head=dict(loss_cls=dict(type='APLoss')))
