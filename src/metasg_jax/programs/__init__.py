"""What the command line runs: files, progress, resumption. Research code needs none of it.

One module a command; beside them what they share: the directory of a run (:mod:`run_directory`),
its lock, what it costs (:mod:`budget`, :mod:`dry_run`), and the machine (:mod:`device`).
"""
