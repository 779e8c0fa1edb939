"""The training loop and what surrounds it: schedules, checkpoints, logs, devices, options.

Nothing here knows a data set or a network; the scripts bring both. The modules that parse
options import no MXNet, so that ``--help`` answers at once.
"""
