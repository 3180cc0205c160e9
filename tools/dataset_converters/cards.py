"""Make the data of configs/cards from a checkout: ``bucketed-losses convert-data cards``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['convert-data', 'cards', *sys.argv[1:]])
