"""Make the data of configs/bccd from a checkout: ``bucketed-losses convert-data bccd``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['convert-data', 'bccd', *sys.argv[1:]])
