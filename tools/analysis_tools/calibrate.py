"""Map the scores of a detector to precisions: ``bucketed-losses calibrate``, e.g. to be started by torchrun or srun."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['calibrate', *sys.argv[1:]])
