"""Table 4: BRS Loss given the time that RS Loss took for 12 epochs. Steps at the shares of MMDetection's 3x."""

_base_ = './mask-rcnn_r50_fpn_brs_4xb4-1x_coco.py'

train_cfg = dict(max_epochs=27)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=27, by_epoch=True, milestones=[20, 25], gamma=0.1),
]
