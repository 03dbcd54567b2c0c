"""`python -m kt_jax COMMAND`, and the console script `kt-jax`."""

import sys

from kt_jax.commands import main

if __name__ == "__main__":
    sys.exit(main())
