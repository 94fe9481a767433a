"""UniGRPO: RL post-training for multimodal masked-diffusion language models, on OpenRLHF."""

__version__ = "0.1.0"
