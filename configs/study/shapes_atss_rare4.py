"""ATSS with focal loss on drawn shapes whose training images have 1/4 of the stars."""

_base_ = '../shapes/atss_efficientnet-lite0_fpn_focal_1xb8-12e_shapes.py'

# Made by bucketed-losses shapes --rare-share 0.25 --out FOLDER. The validation images are those of the full set.
train_dataloader = dict(dataset=dict(data_root='{{$SHAPES_ROOT:data/shapes}}_rare4/'))
