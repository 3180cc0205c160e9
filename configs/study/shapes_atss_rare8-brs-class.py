"""ATSS with BRS Loss on drawn shapes whose training images have 1/8 of the stars, each class ranked on its own."""

_base_ = 'shapes_atss_brs-class.py'

# As in shapes_atss_rare8.py.
train_dataloader = dict(dataset=dict(data_root='{{$SHAPES_ROOT:data/shapes}}_rare8/'))
