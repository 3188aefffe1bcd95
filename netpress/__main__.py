"""`python -m netpress`, which is what `torchrun -m netpress` starts."""

import sys

from netpress.cli import main

if __name__ == "__main__":
    sys.exit(main())
