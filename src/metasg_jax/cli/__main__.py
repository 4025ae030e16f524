"""``python -m metasg_jax.cli`` is ``metasg``."""

import sys

from metasg_jax.cli import main

sys.exit(main())
