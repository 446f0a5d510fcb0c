"""The gym: pure batched functions (``gym``), episodes in text over them (``episodes``), Gymnasium's door
(``gymnasium_env``), and a command that lets a chat endpoint play: ``python -m medvista_jax.environment play``.

Importing this registers "MedVista-v0" with Gymnasium where that is installed.
"""

import importlib.util

if importlib.util.find_spec("gymnasium") is not None:
    import gymnasium

    gymnasium.register(
        id="MedVista-v0",
        entry_point="medvista_jax.environment.gymnasium_env:MedVistaEnv",
        vector_entry_point="medvista_jax.environment.gymnasium_env:MedVistaVectorEnv",
    )
