"""The score-based baseline of Table 7: focal loss, GIoU and centerness."""

_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'

train_dataloader = dict(batch_size=4, num_workers=4)
custom_hooks = [dict(type='CheckInvalidLossHook')]
