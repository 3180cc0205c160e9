"""Training helpers: checkpoints that load safely and runs that resume exactly."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .config import replace_data_root
from .cpu_processes import launch_on_cpu
from .epoch_seed_hook import EpochSeedHook
from .numpy_names import mend_evaluators
from .safe_loading import allow_mmengine_checkpoints

__all__ = [
    'BFloat16OptimWrapper',
    'EpochSeedHook',
    'allow_mmengine_checkpoints',
    'launch_on_cpu',
    'mend_evaluators',
    'replace_data_root',
]

allow_mmengine_checkpoints()
mend_evaluators()
