"""Make the data set of drawn shapes: ``bucketed-losses shapes``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['shapes', *sys.argv[1:]])
