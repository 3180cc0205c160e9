_base_ = [
    '../_base_/models/solov2_efficientnet-lite0_fpn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(mask_head=dict(num_classes=4))

# Masks only: the head has no boxes.
val_evaluator = dict(metric='segm')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
