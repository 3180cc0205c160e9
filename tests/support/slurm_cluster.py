"""A Slurm cluster of one node with two GPUs that are not there, private to a test: own folder, ports and munge key."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from launching import free_port

# Debian keeps the daemons where only root's PATH looks.
DAEMONS = {
    name: shutil.which(name, path=f'{os.environ["PATH"]}:/usr/sbin') for name in ('munged', 'slurmctld', 'slurmd')
}
PARTITION = 'debug'


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [name for name, path in DAEMONS.items() if path is None]
    if missing:
        return f'needs {" ".join(missing)}: make test-slurm'
    return 'needs to be root, as slurmd does' if os.geteuid() != 0 else None


class SlurmCluster:
    """Start in ``with``; ``environment`` is for srun, sbatch and scontrol. Ends the processes it started, no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {'SLURM_CONF': str(folder / 'slurm.conf')}
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> SlurmCluster:
        folder, host = self.folder, socket.gethostname().partition('.')[0]
        folder.chmod(0o755)
        key = folder / 'munge.key'
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ('state', 'spool'):
            (folder / name).mkdir()
        ports = [free_port() for _ in range(2)]
        (folder / 'slurm.conf').write_text(
            f'ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\n'
            f'SlurmctldPort={ports[0]}\nSlurmdPort={ports[1]}\n'
            f'AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket\nCredType=cred/munge\n'
            f'StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n'
            f'SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n'
            'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nReturnToService=2\n'
            'SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nJobRequeue=1\nKillWait=5\n'
            'JobCompType=jobcomp/none\nJobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n'
            'GresTypes=gpu\n'
            f'NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 Gres=gpu:2 State=UNKNOWN\n'
            f'PartitionName={PARTITION} Nodes={host} Default=YES MaxTime=INFINITE State=UP\n'
        )
        (folder / 'gres.conf').write_text('Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n')
        munge = [
            f'--{name}={folder}/munge.{name[:-5] if name.endswith("-file") else name}'
            for name in ('socket', 'key-file')
        ]
        munge += [
            f'--pid-file={folder}/munged.pid',
            f'--log-file={folder}/munged.log',
            f'--seed-file={folder}/munged.seed',
        ]
        try:
            self._start('munged', '--foreground', '--force', *munge)
            self._wait(lambda: (folder / 'munge.socket').exists(), 'munged')
            self._start('slurmctld', '-D', '-i')
            self._start('slurmd', '-D', '-N', host)
            self._wait(lambda: 'idle' in self.run('sinfo', '-h', '-o', '%T').stdout, 'the node')
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, name: str, *arguments: str) -> None:
        log = (self.folder / f'{name}.out').open('w')
        command = [DAEMONS[name], *arguments]
        environment = {**os.environ, **self.environment}
        self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def _wait(self, ready, what: str) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                logs = [path.read_text()[-1500:] for path in self.folder.glob('*.out')]
                raise RuntimeError(f'{what} did not come up:\n' + '\n'.join(logs))
            time.sleep(0.2)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """A Slurm command against this cluster."""
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **self.environment})

    def __exit__(self, *_: object) -> None:
        if len(self._processes) == 3:
            self.run('scancel', '--partition', PARTITION)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
