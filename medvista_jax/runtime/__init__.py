"""What keeps a run alive: checkpoints, metrics, progress, interrupts, the compile cache, the doctor.

Imports nothing of ours but ``core``.
"""
