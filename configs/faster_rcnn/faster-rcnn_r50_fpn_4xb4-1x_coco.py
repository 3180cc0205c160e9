"""The score-based baseline of Table 7: cross-entropy and L1."""

_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

train_dataloader = dict(batch_size=4, num_workers=4)
custom_hooks = [dict(type='CheckInvalidLossHook')]
