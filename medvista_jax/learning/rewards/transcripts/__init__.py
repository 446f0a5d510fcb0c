"""Published rewards over *text*, as upstream computes them: to check that a preset is what it is called.

A reader takes the ``input`` of a case and gives the reward and its parts by way of the formulas that the device uses.
Where upstream code is odd, the readers are odd alike; their docstrings say how. Nothing here is used in training.
"""

from medvista_jax.learning.rewards.transcripts import answers, groups, ophiuchus, tagged, turns
from medvista_jax.learning.rewards.transcripts.base import Reader

READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        tagged.deepeyes,
        tagged.deepeyes_additive_tool,
        tagged.deepeyes_multiplicative,
        tagged.deepeyes_math,
        tagged.deepeyes_v2,
        tagged.deepeyes_v2_search,
        groups.pixel_reasoner,
        groups.pixel_reasoner_release,
        turns.mini_o3,
        answers.vtool_r1,
        answers.vtool_r1_string,
        turns.openthinkimg,
        tagged.chain_of_focus,
        turns.vigorl_multiturn,
        answers.grit,
        answers.grit_rule_parts,
        groups.visualtoolagent,
        tagged.visionary_r1,
        tagged.med_r1,
        tagged.medvlthinker,
        ophiuchus.ophiuchus,
        ophiuchus.ophiuchus_seg,
        turns.verl_zoom_tool,
        groups.medvr,
    )
}
"""By the name of the preset; two more for parts of GRIT and Ophiuchus."""
