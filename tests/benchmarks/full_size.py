"""The 8B model with random weights on a GPU: forward pass by attention kernel, one drawing, one text.

python tests/benchmarks/full_size.py            (needs a GPU with 40 GB)
python tests/benchmarks/full_size.py --tiny     (the same path with a small model, on any machine)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, write

from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import PUBLISHED_IDS, PUBLISHED_TOKENIZER_LENGTH, Vocabulary

LENGTH = 2048
TINY = {"d_model": 64, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        parser.error("the 8B model needs a GPU; --tiny runs anywhere")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {kernel: build(device, tiny, kernel) for kernel in ("sdpa", "eager")}
    models["eager"].load_state_dict(models["sdpa"].state_dict(), assign=True)  # one copy of the weights
    results: dict[str, Any] = {
        "parameters": models["sdpa"].num_parameters(),
        "forward": forward(models, device, LENGTH // 16 if tiny else LENGTH),
        "text": text(models["sdpa"], tiny),
        "image": image(models["sdpa"], tiny),
    }
    write("full_size_tiny" if tiny else "full_size", results)


def build(device: torch.device, tiny: bool, kernel: str) -> MMadaModelLM:
    """Random weights of the published sizes in bfloat16, on the device at once."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = MMadaModelLM(MMadaConfig(**(TINY if tiny else {}), attn_implementation=kernel))
    torch.set_default_dtype(torch.float32)
    return model.eval()


@torch.no_grad()
def forward(models: dict[str, MMadaModelLM], device: torch.device, length: int) -> dict[str, Any]:
    """Tokens per second of a pass over one row whose head is applied to one position, and its peak memory."""
    ids = torch.randint(0, 1000, (1, length), device=device)
    read = torch.zeros_like(ids, dtype=torch.bool)
    read[:, -1] = True

    def run(model: MMadaModelLM) -> None:
        model(ids, positions=read)
        _wait(device)

    seconds = interleaved({name: lambda m=model: run(m) for name, model in models.items()}, rounds=5)
    found: dict[str, Any] = {"row_tokens": length}
    for name, model in models.items():
        found[name] = {
            "tokens_per_second": round(length / seconds[name]),
            "peak_gb": peak(lambda m=model: run(m), device),
        }
    return found


def text(model: MMadaModelLM, tiny: bool) -> dict[str, Any]:
    """One response at the length and steps of the published GSM8K evaluation."""
    settings = TextSamplingConfig(max_new_tokens=256, num_denoising_steps=128, block_length=32, temperature=1.0)
    prompt = torch.arange(100, 228)
    generators = [torch.Generator(model.device).manual_seed(0)]
    return timed(
        lambda: sample_text(model, [prompt], settings, vocabulary(), generators=generators),
        model.device,
        256,
        "tokens",
    )


def image(model: MMadaModelLM, tiny: bool) -> dict[str, Any]:
    """One image of 512 pixels at the published settings: 15 steps with guidance."""
    settings = ImageSamplingConfig(num_image_tokens=64 if tiny else 1024, num_denoising_steps=15, guidance_scale=3.5)
    prompt, empty = torch.arange(100, 164), torch.arange(100, 104)
    generators = [torch.Generator(model.device).manual_seed(0)]
    return timed(
        lambda: sample_images(
            model, [prompt], settings, vocabulary(), generators=generators, unconditional=[empty]
        ),
        model.device, 1, "images",
    )  # fmt: skip


def timed(call: Callable[[], Any], device: torch.device, count: int, unit: str) -> dict[str, Any]:
    """Seconds of the second call, and its peak memory."""
    call()
    started = time.perf_counter()
    memory = peak(call, device)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 3), f"{unit}_per_second": round(count / seconds, 3), "peak_gb": memory}


def peak(call: Callable[[], Any], device: torch.device) -> float | None:
    """GB on the GPU at most during a call; None without one."""
    if device.type != "cuda":
        call()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)


def vocabulary() -> Vocabulary:
    """The published ids, which need no tokenizer."""
    ids = {f"{name}_id": value for name, value in PUBLISHED_IDS.items()}
    return Vocabulary(**ids, end_header_id=None, image_offset=PUBLISHED_TOKENIZER_LENGTH, codebook_size=8192)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
