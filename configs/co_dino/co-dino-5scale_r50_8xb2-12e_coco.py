"""Co-DINO as published: MMDetection's DINO with five levels and Quality Focal Loss, taught by Faster R-CNN and ATSS.

The auxiliary heads are those of Co-Deformable-DETR with one more level; the images, AdamW at 2e-4, the clipping at norm
0.1 and the 12 epochs are its own, too.
"""

_base_ = '../co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'

num_levels = 5
strides = [4, 8, 16, 32, 64, 128]
deformable_attention = dict(num_levels=num_levels, dropout=0.0)

model = dict(
    type='CoDINO',
    num_queries=900,
    num_feature_levels=num_levels,
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[256, 512, 1024, 2048], num_outs=num_levels),
    encoder=dict(layer_cfg=dict(self_attn_cfg=deformable_attention)),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=deformable_attention)),
    positional_encoding=dict(offset=0.0, temperature=20),
    bbox_head=dict(
        type='CoDINOHead',
        loss_cls=dict(_delete_=True, type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_heads=dict(bbox_roi_extractor=dict(featmap_strides=strides[:-1], finest_scale=56)),
    dense_heads=dict(anchor_generator=dict(strides=strides)),
    # DINO has no NMS; Co-DINO was published with a soft one, and its authors' figures have it.
    test_cfg=dict(max_per_img=300, nms=dict(type='soft_nms', iou_threshold=0.8)),
)

optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys=dict(backbone=dict(lr_mult=0.1))))
