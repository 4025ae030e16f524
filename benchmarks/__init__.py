"""Speed, measured: ours, the peers and the floor in one run. ``make bench``."""
