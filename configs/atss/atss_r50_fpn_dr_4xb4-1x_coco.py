_base_ = './atss_r50_fpn_brs_4xb4-1x_coco.py'

# The box loss keeps its weight of 2, as with AP losses.
model = dict(bbox_head=dict(loss_cls=dict(type='DRLoss')))
# Published for DR Loss.
optim_wrapper = dict(optimizer=dict(lr=0.01))
