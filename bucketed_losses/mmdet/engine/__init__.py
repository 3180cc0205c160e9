"""Training helpers: checkpoints that load safely, runs that resume exactly, and launchers without a GPU."""

from .atomic_checkpoints import AtomicCheckpointHook, AtomicLocalBackend
from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .checkpoints import check_checkpoint, load_safely, newest_complete_checkpoint, why_damaged, why_incomplete
from .config import replace_data_root
from .config_checks import check_files, check_names, check_not_empty
from .cpu_processes import launch_on_cpu
from .epoch_seed_hook import EpochSeedHook
from .invalid_loss_hook import InvalidLossHook
from .last_validation_hook import LastValidationHook
from .numpy_names import mend_evaluators
from .preemption_hook import PreemptionHook
from .ranking_visualization_hook import RankingVisualizationHook
from .safe_loading import CheckpointError, UnreadableCheckpointError, load_checkpoints_safely, safe_load
from .signal_proof_workers import signal_proof_worker_init_fn

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'BFloat16OptimWrapper',
    'CheckpointError',
    'EpochSeedHook',
    'InvalidLossHook',
    'LastValidationHook',
    'PreemptionHook',
    'RankingVisualizationHook',
    'UnreadableCheckpointError',
    'check_checkpoint',
    'check_files',
    'check_names',
    'check_not_empty',
    'launch_on_cpu',
    'load_checkpoints_safely',
    'load_safely',
    'mend_evaluators',
    'newest_complete_checkpoint',
    'replace_data_root',
    'safe_load',
    'signal_proof_worker_init_fn',
    'why_damaged',
    'why_incomplete',
]

load_checkpoints_safely()
mend_evaluators()
