"""Numbers that the worker and the reference share; apart, since importing the worker patches torch for Megatron."""

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
