"""Trajectories of agents in files: ours and other projects', for supervised fine-tuning, curricula and replay.

    python -m medvista_jax.data.trajectories convert messages train.json --out runs/imported/train.jsonl
    python -m medvista_jax.data.trajectories stats runs/imported/train.jsonl

**The file.** One JSON object a line (``.jsonl``), images in the folder ``images`` beside it, named by their content so
that samples of one question share them. A line stands for itself: files may be cut, filtered and joined with the tools
of the shell as long as they stay beside their images. An object is a :class:`Record`; what has its default is left out:

    {"id": "train/implant_shape/000017", "question": "Which shape is implanted? …", "answer": "ring",
     "options": ["ring", "cross", "disc", "bars"], "family": "implant_shape", "needs": "zoom", "split": "train",
     "images": [{"file": "images/5f0c….png", "window": [0, 255]}],            the question's own, stored intensities
     "tools": ["zoom_in", "adjust_window"],                                   offered; schemas of others' tools
     "source": {"kind": "checkpoint", "name": "runs/…", "tokenizer": "9a41…", "tokens_per_image": 16,
                "temperature": 1.0, "key": [0, 3], "row": 5},
     "prompt": {"ids": [1, 17, …], "feature": [[6, 0, 16]]},                  where known
     "turns": [{"text": "<think>look</think><tool_call>{…}</tool_call>", "ids": [5, 88, …], "fault": "NONE",
                "observation": {"text": "image 1", "image": {"file": "images/….png"}, "ids": […], "feature": […]}},
               {"text": "<think>clear</think><answer>ring</answer>", "ids": […]}],
     "outcome": {"answer": "ring", "correct": true, "well_formed": true, "reward": 1.0, "terms": {"format": 0.5}}}

What each part means, types and units: :mod:`medvista_jax.data.trajectories.record`. ``feature`` holds runs
``[at, first, count]``: ids from ``at`` on stand for the embeddings ``first``, ``first + 1``, … (image ``i`` has those
from ``i * tokens_per_image`` on). Images are any file that :mod:`medvista_jax.data.files` reads, DICOM and NIfTI too.

**Into training**, in two ways:

* turns played again, observations from our own tools: :func:`encode_turns` makes the script, ``Record.item`` the
  question of a ``QuestionPool``, and ``learning.sft.sft_step`` enacts them; host tools' replies are handed back by
  :class:`RecordedReplies`;
* everything from the file: :class:`TrajectoryPool` makes ``core.types.Trajectory`` and pixels for
  ``learning.sft.sft_update``. Loss falls on what the policy said and on nothing else. Ids of the policy's own
  vocabulary (:func:`fingerprint`) are taken as they are, never decoded and encoded again; for another policy the turns
  are encoded and prompt, tools and observations are written in its chat's words.

**Out of rollouts**: :func:`records_of`. **Out of other formats**: :mod:`~medvista_jax.data.trajectories.messages`,
:mod:`~medvista_jax.data.trajectories.sharegpt`, :mod:`~medvista_jax.data.trajectories.verl`. What is worth keeping:
:mod:`~medvista_jax.data.trajectories.select`; what to ask next: :mod:`~medvista_jax.data.trajectories.curriculum`.
"""

from __future__ import annotations

from medvista_jax.data.trajectories.enacting import RecordedReplies, encode_turns
from medvista_jax.data.trajectories.files import Writer, read_records
from medvista_jax.data.trajectories.played import HostLog, fingerprint, records_of
from medvista_jax.data.trajectories.pool import TrajectoryPool
from medvista_jax.data.trajectories.record import (
    BadRecord,
    HostWord,
    ImageRef,
    Observation,
    Outcome,
    Prompt,
    Record,
    Source,
    Turn,
)

__all__ = [
    "BadRecord",
    "HostLog",
    "HostWord",
    "ImageRef",
    "Observation",
    "Outcome",
    "Prompt",
    "Record",
    "RecordedReplies",
    "Source",
    "TrajectoryPool",
    "Turn",
    "Writer",
    "encode_turns",
    "fingerprint",
    "read_records",
    "records_of",
]
