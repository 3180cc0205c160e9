"""A CPU-sized Dynamic R-CNN: the CPU-sized Faster R-CNN with thresholds and a box loss that follow the proposals."""

_base_ = './faster-rcnn_efficientnet-lite0_fpn.py'

model = dict(
    roi_head=dict(type='DynamicRoIHead', bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0))),
    train_cfg=dict(
        rpn_proposal=dict(nms=dict(iou_threshold=0.85)),
        rcnn=dict(
            dynamic_rcnn=dict(
                iou_topk=8,  # MMDetection's 75 of 2,000 proposals and 10 of 512 samples, for 200 and 128
                beta_topk=3,
                update_iter_interval=25,  # as many images as 100 steps with a batch of 2, MMDetection's
                initial_iou=0.4,
                initial_beta=1.0,
            )
        ),
    ),
    test_cfg=dict(rpn=dict(nms=dict(iou_threshold=0.85))),
)
