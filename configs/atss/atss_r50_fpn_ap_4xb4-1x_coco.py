_base_ = './atss_r50_fpn_brs_4xb4-1x_coco.py'

# The box loss keeps its weight of 2: AP losses are not self-balanced.
# The published AP Loss interpolates precisions; without this setting, it is Eq. 3 as written.
model = dict(bbox_head=dict(loss_cls=dict(type='APLoss', interpolated=True)))
