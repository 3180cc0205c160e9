"""A CPU-sized Co-DINO: the CPU-sized Co-Deformable-DETR with 256 channels, DINO's denoising and Quality Focal Loss.

Its decoder encodes positions for 256 channels, so no other number is possible.
"""

_base_ = './co-deformable-detr_efficientnet-lite0.py'

embed_dims = 256
attention = dict(embed_dims=embed_dims)
ffn = dict(embed_dims=embed_dims)

model = dict(
    type='CoDINO',
    neck=dict(out_channels=embed_dims),
    encoder=dict(layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=embed_dims // 2, offset=0.0, temperature=20),
    bbox_head=dict(
        type='CoDINOHead',
        embed_dims=embed_dims,
        loss_cls=dict(_delete_=True, type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    rpn_head=dict(in_channels=embed_dims, feat_channels=embed_dims),
    roi_heads=dict(
        bbox_roi_extractor=dict(out_channels=embed_dims),
        bbox_head=dict(in_channels=embed_dims),
    ),
    dense_heads=dict(in_channels=embed_dims, feat_channels=embed_dims),
)
