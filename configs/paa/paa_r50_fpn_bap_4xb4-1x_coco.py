_base_ = './paa_r50_fpn_brs_4xb4-1x_coco.py'

# As published: delta 0.5 (1.0 in ATSS), and a box loss of weight 1, which is not self-balanced.
model = dict(bbox_head=dict(loss_cls=dict(type='BucketedAPLoss', delta=0.5)))
