"""The legend of dimension letters used as suffixes (``tokens_BS``, ``k_BKSD``) across the package.

P  prompts (questions) in a batch           G  group: trajectories sampled for one prompt
B  rows of a batch, B = P * G, row b belongs to prompt b // G
S  sequence slots: cache length or training length
T  tokens of one turn                       R  turns (capacity)
O  original images of a question            I  image slots of a trajectory: originals, then views
L  embeddings an image costs                M  bytes a token can stand for
Y, X  canvas height and width               h, w  view height and width
C  channels                                 A  argument slots of a parsed call
E  model width; effects stacked on a view   F  feed-forward width
H  query heads                              K  key/value heads
D  head width                               V  vocabulary
W  slots of one observation                 Z  rotary position axes (1 for text-only RoPE, 3 for M-RoPE)
N  anything flat; numbers of an effect or a reading
"""

FRAME = 1000
"""Boxes are integers 0…FRAME relative to the image that they are drawn on."""
