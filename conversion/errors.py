"""Errors of the conversion room: each message names the file or key, what was expected and what to do."""

from __future__ import annotations


class ConversionError(Exception):
    """Base of every error raised on purpose here; the command line prints it without a traceback."""


class UnknownFamilyError(ConversionError):
    """`model_type` of a config.json has no weight map here."""


class UnsupportedConfigError(ConversionError):
    """A config.json asks for something that the weight map or megatron-core cannot express, or lacks a key."""


class HuggingFaceError(ConversionError):
    """A Hugging Face folder is incomplete, truncated or inconsistent; the message names the file."""


class TensorMapError(ConversionError):
    """A tensor is missing, left over or of another shape than the configuration says; the message names it."""


class NonFiniteError(ConversionError):
    """A weight is NaN or infinite; the message names its tensor."""


class CheckpointError(ConversionError):
    """A Megatron-side checkpoint is incomplete, truncated or not a checkpoint; the message names the file."""


class DestinationError(ConversionError):
    """The destination exists already, or lies inside the source."""


class TokenizerError(ConversionError):
    """A model's tokenizer or chat template is missing, damaged or unfit; the message names the fault and the fix."""
