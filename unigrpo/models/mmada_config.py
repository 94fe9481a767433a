"""The sizes of the LLaDA/MMaDA transformer, under the config keys of the published checkpoints."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig

from unigrpo.models.vocabulary import PUBLISHED_IDS


class MMadaConfig(PretrainedConfig):
    """Sizes of the transformer, under the published key names. Other published keys are kept and not read."""

    model_type = "mmada"
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
    }

    def __init__(
        self,
        d_model: int = 4096,
        n_layers: int = 32,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        mlp_hidden_size: int = 12288,
        vocab_size: int = 134656,
        embedding_size: int | None = None,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        max_sequence_length: int = 4096,
        init_std: float = 0.02,
        mask_token_id: int = PUBLISHED_IDS["mask"],
        max_text_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.max_sequence_length = max_sequence_length
        self.init_std = init_std
        self.mask_token_id = mask_token_id
        self.max_text_tokens = max_text_tokens  # of request and thoughts before an image (r2i), in its training
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
