"""MedVista-JAX: train vision language models to think with medical images, in one compiled program.

Research software, not for clinical use.
"""

__version__ = "0.1.0"
