"""AdamW for 12 epochs as small DETRs want it: clipped at norm 0.1, the pretrained backbone learning slower."""

_base_ = './adamw_12e.py'

optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.2), sampling_offsets=dict(lr_mult=0.2))),
    clip_grad=dict(max_norm=0.1),
)
auto_scale_lr = dict(base_batch_size=4)
