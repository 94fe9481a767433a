"""Estimate of the memory that one policy GPU of a run needs, before the run starts.

The counts are those of mixed-precision Adam under ZeRO (arXiv:1910.02054, section 3.1): 12 bytes per parameter for the
float32 master weights and the two moments, one weight in the type of the forward pass, and one gradient in the type in
which gradients are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig, LoRAConfig, RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.cost.hardware import Hardware
from unigrpo.cost.rewards import gpu_memory_gb
from unigrpo.models.image_tokenizer import IMAGE_BATCH_SIZE, ImageTokenizer, ImageTokenizerConfig
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.output_head import HEAD_CHUNK_ROWS
from unigrpo.models.vocabulary import PUBLISHED_CODEBOOK_SIZE

OPTIMIZER_BYTES = 12
TYPE_BYTES = {"fp32": 4, "bf16": 2}
USABLE_FRACTION = 0.92
"""Usable fraction of a GPU's memory. The CUDA context, NCCL's buffers and fragmentation need the rest."""
REDUCE_BUCKET = 500_000_000
"""Number of gradients that DeepSpeed collects before it reduces them (``reduce_bucket_size``)."""
MAX_LIVE_PARAMETERS = 1_000_000_000
"""Number of weights that ZeRO-3 keeps gathered (``stage3_max_live_parameters``)."""
TOKENIZER_FEATURES = 5
"""Number of full-resolution feature maps that the image tokenizer keeps in memory at once."""
PHASES = ("encode", "generate", "score", "update", "optimizer step")
"""Parts of a step that run one after the other and reuse the same memory."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a model that the estimates need."""

    num_parameters: int
    num_layers: int
    width: int
    mlp_width: int
    kv_width: int
    """Width of a token's keys in one layer: number of key heads times their size."""
    vocabulary_size: int
    num_trainable: int
    """Number of trained parameters: all, or those of the LoRA adapters."""

    @property
    def layer_parameters(self) -> int:
        """Number of parameters of the layers' matrices: all but embedding, head and norms."""
        return self.num_parameters - self.width * (2 * self.vocabulary_size + 2 * self.num_layers + 1)

    @classmethod
    def of(cls, config: MMadaConfig, lora: LoRAConfig) -> ModelSize:
        """Returns the size of the model that a config describes, without building its weights."""
        with torch.device("meta"):
            model = MMadaModelLM(config)
            if lora.rank:
                add_lora(model, lora)
        return cls(
            num_parameters=model.num_parameters(),
            num_trainable=model.num_parameters(only_trainable=True),
            num_layers=config.n_layers,
            width=config.d_model,
            mlp_width=config.mlp_hidden_size,
            kv_width=config.n_kv_heads * config.d_model // config.n_heads,
            vocabulary_size=config.embedding_size,
        )


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one policy rank, in gigabytes (1e9 bytes)."""

    gpu: dict[str, float]
    """Memory on the GPU, by purpose. The :data:`PHASES` follow one another; all other memory is needed all the
    time."""
    cpu: dict[str, float]
    """Memory that is moved to the CPU, by purpose."""

    @property
    def gpu_total(self) -> float:
        """Largest memory at one time: the memory that is needed all the time, and that of the largest phase."""
        phases = [gigabytes for name, gigabytes in self.gpu.items() if name in PHASES]
        return sum(self.gpu.values()) - sum(phases) + max(phases, default=0.0)

    @property
    def largest(self) -> str:
        """Purpose that needs the most memory at that time."""
        phase = max((name for name in self.gpu if name in PHASES), key=lambda name: self.gpu[name], default="")
        return max((name for name in self.gpu if name not in PHASES or name == phase), key=lambda name: self.gpu[name])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Lengths of the longest rows of a run, in tokens."""

    longest: int
    """Length of prompt and response together."""
    longest_image: int = 0
    """Length of prompt and generated image together; 0 if the run generates no images."""
    image_tokens: int = 0
    """Number of codes of an image; 0 if the run has no images."""
    codebook_size: int = PUBLISHED_CODEBOOK_SIZE


def memory_plan(config: RunConfig, model: ModelSize, rows: Rows) -> MemoryPlan:
    """Estimates the memory of one policy rank, with the reference if it shares the GPU.

    Args:
        config: The run.
        model: Size of the policy.
        rows: Lengths of the longest rows.
    """
    tokens = pass_tokens(config, rows.longest)
    plan = training_memory(config, model, tokens)
    plan.gpu["score"] = scoring_gb(model, tokens, config.ds.param_dtype)
    # With rollout workers too: held-out prompts are answered here. The weights are there; under ZeRO-3 a part.
    copied = _weights_gb(config, model) if config.ds.zero_stage == 3 else 0.0
    plan.gpu["generate"] = copied + generation_gb(config, model, rows)
    if rows.image_tokens:
        plan.gpu["image tokenizer"] = image_tokenizer_gb()
    if any(term.on_policy_gpus for term in config.reward.terms):
        plan.gpu["rewards"] = gpu_memory_gb(config.reward.terms)
    if config.has_reference_workers and config.train.colocate_actor_ref:
        where = plan.cpu if config.ref.offload else plan.gpu
        where["reference"] = plan.gpu["weights"]
        # Its process keeps the memory of its passes, and gives it back only when it moves its weights away.
        plan.gpu["reference's passes"] = plan.gpu["score"]
    return plan


def stage_memory(config: StageConfig, model: ModelSize, longest_row: int) -> MemoryPlan:
    """Estimates the memory of one rank of pretraining or Mix-CoT, which also encodes the images of its rows."""
    plan = training_memory(config, model, config.train.micro_batch_size * longest_row)
    if set(config.modalities) - {"lm", "lm_chat"}:
        plan.gpu["image tokenizer"] = image_tokenizer_gb()
        plan.gpu["encode"] = image_coding_gb(config.image.resolution)
    return plan


def pass_tokens(config: RunConfig, longest_row: int) -> int:
    """Returns the largest number of tokens of a scoring or training pass, padding included."""
    if config.train.micro_batch_tokens:
        return max(config.train.micro_batch_tokens, longest_row)
    return config.train.micro_batch_size * longest_row


def rollout_memory_gb(config: RunConfig, model: ModelSize, rows: Rows) -> float:
    """Returns the gigabytes (1e9 bytes) of a rollout worker. It generates, and also scores if generation is a step
    ahead."""
    work = [generation_gb(config, model, rows)]
    if config.rollout.max_staleness:
        work.append(scoring_gb(model, pass_tokens(config, rows.longest), config.ds.param_dtype))
    tokenizer = image_tokenizer_gb() if rows.image_tokens else 0.0
    return _weights_gb(config, model) + tokenizer + max(work)


def generation_gb(config: RunConfig, model: ModelSize, rows: Rows) -> float:
    """Returns the gigabytes of generation without the weights: the larger one of text and images."""
    text, image, dtype = config.rollout.text, config.rollout.image, config.ds.param_dtype
    batch = config.rollout.micro_batch_size
    guided = 2 if text.guidance_scale > 0 else 1
    needed = [
        sampling_gb(
            model,
            dtype,
            tokens=guided * batch * rows.longest,
            cached_tokens=guided * batch * rows.longest if text.cache != "none" else 0,
            num_logits=batch * text.block_length * model.vocabulary_size,
            copies=logit_copies(text.temperature, text.top_p, text.guidance_scale),
        )
    ]
    if rows.longest_image:
        # The unconditional rows have almost no prompt; they make passes of their own, but their cache stays.
        unconditional = batch * unconditional_row(rows.image_tokens) if image.guidance_scale > 0 else 0
        tokens = batch * rows.longest_image
        needed.append(
            sampling_gb(
                model,
                dtype,
                tokens=tokens,
                cached_tokens=tokens + unconditional if image.cache != "none" else 0,
                num_logits=batch * rows.image_tokens * rows.codebook_size,
                copies=logit_copies(image.temperature, 1.0, image.guidance_scale),
            )
        )
    if rows.image_tokens:
        needed.append(image_coding_gb(config.image.resolution))
    return max(needed)


def unconditional_row(num_image_tokens: int) -> int:
    """Returns the length of an unconditional row in tokens: an image with its start and end tokens, and almost no
    prompt."""
    return num_image_tokens + 5


def sampling_gb(
    model: ModelSize, dtype: str, *, tokens: int, cached_tokens: int, num_logits: int, copies: float
) -> float:
    """Returns the gigabytes of a sampling step: the caches, and the larger of its forward pass and its float32 logits.

    Args:
        model: Size of the model.
        dtype: Type of the weights.
        tokens: Number of tokens of the pass.
        cached_tokens: Number of tokens whose keys and values are kept.
        num_logits: Number of logits of the tokens to sample, after guidance.
        copies: Number of float32 copies of these logits that exist at once; see :func:`logit_copies`.
    """
    of_layer = cached_tokens * 2 * model.kv_width * TYPE_BYTES[dtype]
    # The keys and values of the last layer are among the tensors of its pass.
    in_pass = of_layer * (model.num_layers - 1) + _pass_bytes(model, tokens, dtype)
    return max(in_pass, of_layer * model.num_layers + copies * 4 * num_logits) / 1e9


def logit_copies(temperature: float, top_p: float, guidance_scale: float) -> int:
    """Returns the largest number of float32 copies of the sampled logits that exist at once.

    The logits and their noise or log-softmax are two copies; a temperature makes another one. Guidance needs the
    logits of two rows and the result. ``top_p`` needs the allowed logits, the sorted logits, their indices (twice as
    large), their probabilities and the cumulative sum.
    """
    scaled = temperature not in (0, 1)
    copies = 2 if top_p >= 1 else 7
    return max(copies + scaled, 3 if guidance_scale > 0 else 0)


def scoring_gb(model: ModelSize, tokens: int, dtype: str, read: int | None = None) -> float:
    """Returns the gigabytes of a pass that computes log-probabilities without gradients. The weights are not included.

    Args:
        model: Size of the model.
        tokens: Number of tokens of the pass.
        dtype: Type of the weights.
        read: Number of tokens that are scored; None for all.
    """
    residual = tokens * model.width * TYPE_BYTES[dtype]
    chunk = _chunk_bytes(model, tokens if read is None else read)
    return max(_pass_bytes(model, tokens, dtype), residual + 2 * chunk) / 1e9


def update_gb(model: ModelSize, tokens: int, dtype: str, read: int | None = None, *, is_recomputed: bool) -> float:
    """Returns the gigabytes of a forward and backward pass. The weights and their gradients are not included.

    In bfloat16 a layer keeps 10 tensors of the model's width for the backward pass (two float32 copies of a norm's
    input count twice), keys and values, and 4 of the MLP's width. The last layer keeps less, because its MLP computes
    only the tokens that are read.

    Args:
        model: Size of the model.
        tokens: Number of tokens of the pass.
        dtype: Type of the weights.
        read: Number of tokens that are scored; None for all.
        is_recomputed: Whether the layers keep only their inputs (gradient checkpointing).
    """
    bytes_each = TYPE_BYTES[dtype]
    width, norms = model.width, 0 if dtype == "bf16" else 2  # float32 norms keep no copy of another type
    layer = (10 - norms) * width + 2 * model.kv_width + 4 * model.mlp_width
    last = (6 - norms // 2) * width + 2 * model.kv_width
    head_gradient = model.vocabulary_size * width * bytes_each
    read = tokens if read is None else read
    chunk = _chunk_bytes(model, read)
    # Of several chunks of rows, autograd adds up the gradients of the head's weights: two and their sum.
    head = 3 * head_gradient if read > HEAD_CHUNK_ROWS else max(3 * chunk, head_gradient + 1.5 * chunk)
    # The gradients of a layer's activations beside what it keeps: three of the model's width and one of the MLP's.
    backward = 3 * width + model.mlp_width
    if is_recomputed:
        kept, backward = model.num_layers * width, layer + backward
    else:
        kept = (model.num_layers - 1) * layer + last
    return (tokens * kept * bytes_each + max(head, tokens * backward * bytes_each)) / 1e9


def image_tokenizer_gb() -> float:
    """Returns the gigabytes of the published image tokenizer's weights, which are float32."""
    with torch.device("meta"):
        return sum(p.numel() for p in ImageTokenizer(ImageTokenizerConfig()).parameters()) * 4 / 1e9


def image_coding_gb(resolution: int) -> float:
    """Returns the gigabytes of encoding or decoding a batch of images of this height and width, in pixels."""
    stem = ImageTokenizerConfig().stem_channels
    return TOKENIZER_FEATURES * IMAGE_BATCH_SIZE * stem * resolution**2 * 4 / 1e9


def _pass_bytes(model: ModelSize, tokens: int, dtype: str) -> int:
    """Returns the bytes of a layer's tensors in a pass without gradients.

    These are the residual stream before and after attention, the output of the norm, and either two tensors of the MLP
    or, in attention, the query and the key in float32 before and after rotation, which are as large as nine bfloat16
    tensors.
    """
    attention = 9 if dtype == "bf16" else 6
    return tokens * max(3 * model.width + 2 * model.mlp_width, attention * model.width) * TYPE_BYTES[dtype]


def _chunk_bytes(model: ModelSize, read: int) -> int:
    """Returns the bytes of the float32 logits of one chunk of rows."""
    return min(read, HEAD_CHUNK_ROWS) * model.vocabulary_size * 4


def _weights_gb(config: BaseRunConfig, model: ModelSize) -> float:
    return model.num_parameters / 1e9 * TYPE_BYTES[config.ds.param_dtype]


def check_fits(plan: MemoryPlan, config: BaseRunConfig, hardware: Hardware) -> None:
    """Checks that a run does not need more memory than the GPU has.

    Raises:
        ValueError: The run does not fit.
    """
    room = room_gb(hardware)
    if plan.gpu_total <= room:
        return
    largest = plan.largest
    changes = [
        ("ds.zero_stage 3", config.ds.zero_stage < 3 and config.actor.num_ranks > 1),
        ("more GPUs (actor.num_nodes, actor.num_gpus_per_node)", True),
        ("ds.adam_offload true", not config.ds.adam_offload),
        ("ref.offload true", "reference" in plan.gpu and config.ds.zero_stage < 3),
        ("a smaller train.micro_batch_size", largest in ("update", "score", "reference's passes")),
        ("a smaller rollout.micro_batch_size", largest == "generate"),
        ("actor.gradient_checkpointing_enable true", not config.actor.gradient_checkpointing_enable),
    ]
    raise ConfigError(
        f"the run needs {plan.gpu_total:.1f} GB on each GPU, most of it for {largest} ({plan.gpu[largest]:.1f} GB); "
        f"{hardware.name} has {hardware.memory_gb:.0f} GB, of which {room:.0f} can be used. Choose among: "
        + ", ".join(change for change, helps in changes if helps)
    )


def check_rollouts_fit(gigabytes: float, hardware: Hardware) -> None:
    """Checks that a rollout worker does not need more memory than its GPU has; raises as :func:`check_fits`."""
    if gigabytes > room_gb(hardware):
        raise ConfigError(
            f"a rollout worker needs {gigabytes:.1f} GB; {hardware.name} has {hardware.memory_gb:.0f} GB, of which "
            f"{room_gb(hardware):.0f} can be used. Choose a smaller rollout.micro_batch_size"
        )


def room_gb(hardware: Hardware) -> float:
    """Returns the part of a GPU's memory that a plan may fill."""
    return USABLE_FRACTION * hardware.memory_gb


def training_memory(config: BaseRunConfig, model: ModelSize, tokens: int, num_ranks: int | None = None) -> MemoryPlan:
    """Returns the memory of one rank that trains a model.

    Args:
        config: The run or stage.
        model: Its size.
        tokens: Number of tokens of one micro-batch.
        num_ranks: Number of ranks, which replaces that of the run.
    """
    bytes_each, stage = TYPE_BYTES[config.ds.param_dtype], config.ds.zero_stage
    ranks = num_ranks or config.actor.num_ranks
    trained = model.num_trainable / 1e9
    own_gradients = trained / (ranks if stage >= 2 else 1)
    passes = update_gb(model, tokens, config.ds.param_dtype, is_recomputed=config.actor.gradient_checkpointing_enable)
    gpu = {
        "weights": _weights_gb(config, model) / (ranks if stage == 3 else 1),
        "gradients": own_gradients * TYPE_BYTES[config.ds.grad_accum_dtype],
        "update": passes + zero_buffers_gb(config, model, ranks),
        # A float32 copy of the gradients that the optimizer of this rank takes, and the flat copy it is made of.
        "optimizer step": trained / (ranks if stage >= 1 else 1) * (4 + bytes_each),
    }
    cpu: dict[str, float] = {}
    (cpu if config.ds.adam_offload else gpu)["optimizer"] = trained * OPTIMIZER_BYTES / (ranks if stage >= 1 else 1)
    return MemoryPlan(gpu=gpu, cpu=cpu)


def zero_buffers_gb(config: BaseRunConfig, model: ModelSize, ranks: int) -> float:
    """Returns the gigabytes of DeepSpeed's buffers during a backward pass.

    The reduction needs one bucket of full size, or two with overlap, and a flat copy of the gradients in it, or of the
    gradient of the head if that is larger. If gradients are sent in another type than their own, there is also a copy
    in that type. ZeRO-2 keeps the gradients of the current micro-batch and the sum of the earlier ones. ZeRO-3 keeps
    the gathered weights, and its bucket and flat copies have the type in which gradients are sent.

    Args:
        config: The run or stage.
        model: Its size.
        ranks: Number of ranks. One rank alone has the same buffers.
    """
    own, sent, stage = TYPE_BYTES[config.ds.param_dtype], TYPE_BYTES[config.ds.grad_accum_dtype], config.ds.zero_stage
    if stage == 0:
        return 0.0
    head = model.vocabulary_size * model.width if model.num_trainable == model.num_parameters else 0
    largest = max(min(REDUCE_BUCKET, model.num_trainable), head)
    converted = sent * largest if sent != own else 0
    if stage == 3:
        gathered = own * min(MAX_LIVE_PARAMETERS, model.num_parameters)
        return (sent * REDUCE_BUCKET + sent * largest + converted + gathered) / 1e9
    buckets = own * REDUCE_BUCKET * (2 if config.ds.overlaps_reduction else 1)
    present = own * model.num_trainable / ranks if stage == 2 else 0.0
    return (buckets + own * largest + converted + present) / 1e9
