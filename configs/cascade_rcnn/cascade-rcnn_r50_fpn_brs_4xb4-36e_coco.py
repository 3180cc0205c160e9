"""Table 4: BRS Loss given (less than) the time that RS Loss took for 12 epochs. Steps are MMDetection's 3x."""

_base_ = './cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
