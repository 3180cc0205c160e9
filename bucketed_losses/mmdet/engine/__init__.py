"""Training helpers: checkpoints that load safely, runs that resume exactly, and launchers without a GPU."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .checkpoints import AtomicCheckpointHook, AtomicLocalBackend, newest_complete_checkpoint, why_incomplete
from .config import replace_data_root
from .config_checks import check_files, check_names, check_not_empty
from .cpu_processes import launch_on_cpu
from .epoch_seed_hook import EpochSeedHook
from .invalid_loss_hook import InvalidLossHook
from .numpy_names import mend_evaluators
from .preemption_hook import PreemptionHook
from .ranking_visualization_hook import RankingVisualizationHook
from .safe_loading import load_checkpoints_safely, safe_load

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'BFloat16OptimWrapper',
    'EpochSeedHook',
    'InvalidLossHook',
    'PreemptionHook',
    'RankingVisualizationHook',
    'check_files',
    'check_names',
    'check_not_empty',
    'launch_on_cpu',
    'load_checkpoints_safely',
    'mend_evaluators',
    'newest_complete_checkpoint',
    'replace_data_root',
    'safe_load',
    'why_incomplete',
]

load_checkpoints_safely()
mend_evaluators()
