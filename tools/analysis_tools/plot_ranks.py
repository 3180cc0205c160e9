"""Draw the ranking of one training batch: ``bucketed-losses plot-ranks``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['plot-ranks', *sys.argv[1:]])
