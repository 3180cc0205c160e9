"""A small fixed batch of noise for any of MMDetection's detectors, trackers and semi-supervised detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs, demo_track_inputs
from mmengine.config import Config
from mmengine.structures import InstanceData


def demo_batch(cfg: Config) -> dict[str, Any]:
    """What ``model.train_step`` of a config's detector takes: two images, with 3 and 2 objects of class 0."""
    model = cfg.model
    if 'semi_train_cfg' in model:
        return _semi_supervised_batch()
    if _tracks_pairs(model):
        return _pairs_of_frames(cfg)
    head = (model.get('detector') or model).get('roi_head', {})
    edge = _edge(model)
    batch = demo_mm_inputs(
        2,
        [[3, edge, edge], [3, edge, edge * 3 // 4]],
        num_items=[3, 2],
        num_classes=2,
        with_mask=bool(head.get('mask_head')) or 'panoptic_head' in model or 'segm' in str(cfg.get('val_evaluator')),
        with_semantic='semantic_head' in model or 'semantic_head' in head or _has_stuff(model),
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels.zero_()  # the one class that every detector knows
        boxes = sample.gt_instances.bboxes
        sample.proposals = InstanceData(bboxes=torch.cat([boxes, boxes + 8]))  # Fast R-CNN reads them
    return batch


def _has_stuff(model: Any) -> bool:
    return model.get('panoptic_head', {}).get('num_stuff_classes', 0) > 0


def _edge(model: Any) -> int:
    """Pixels of the longer edge of an image."""
    if model.get('num_queries', 0) > 300:
        return 256  # DINO takes its queries from the locations of an image, and needs as many locations
    if model['type'] == 'DDOD':
        return 512  # its deformable convolutions need at least 3 x 3 locations on the highest level, of stride 128
    if 'SSDVGG' in model.get('backbone', {}).get('type', ''):
        return 512  # it has convolutions without padding down to one location
    return 128


def demo_video(num_frames: int = 2) -> dict[str, Any]:
    """What ``model.test_step`` of a tracker takes: one video."""
    return demo_track_inputs(batch_size=1, num_frames=num_frames, image_shapes=[(3, 128, 128)], num_items=[2])


def _tracks_pairs(model: Any) -> bool:
    """Whether a tracker is trained on pairs of frames; others are trained on images, or not at all."""
    return 'track_head' in model


def _pairs_of_frames(cfg: Config) -> dict[str, Any]:
    batch = demo_track_inputs(
        batch_size=1,
        num_frames=2,
        key_frames_inds=[0],
        image_shapes=[(3, 128, 128)],
        num_items=[3],
        with_mask='detector' not in cfg.model or 'mask_head' in cfg.model.detector.roi_head,
    )
    for video in batch['data_samples']:
        for frame in video.video_data_samples:
            # An object has the same number in both frames.
            frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances.labels))
            frame.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return batch


def _semi_supervised_batch() -> dict[str, Any]:
    inputs, samples = {}, {}
    for branch in ('sup', 'unsup_teacher', 'unsup_student'):
        packed = demo_mm_inputs(1, [[3, 128, 128]], num_items=[3], num_classes=2)
        for sample in packed['data_samples']:
            sample.gt_instances.labels.zero_()
            sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
        inputs[branch], samples[branch] = packed['inputs'], packed['data_samples']
    return dict(inputs=inputs, data_samples=samples)
