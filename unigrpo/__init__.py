"""UniGRPO: RL post-training for multimodal masked-diffusion language models, on OpenRLHF."""

__version__ = "0.2.0.dev0"


class ConfigError(ValueError):
    """A setting or a command line is wrong. The message says which, what was found and what is expected."""


class DataError(ValueError):
    """A prompt, an image or a corpus is wrong. The message names the file and the line."""


class CheckpointError(ValueError):
    """A model folder or a checkpoint is wrong. The message names the folder and what to do."""
