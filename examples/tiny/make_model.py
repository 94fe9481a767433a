"""Makes the tiny policy by masked-denoising fine-tuning on arithmetic, in a few minutes on a CPU.

    python examples/tiny/make_model.py --output examples/tiny/model
    python examples/tiny/make_model.py --output runs/random_bytes --random_bytes

The first command writes the model from which launch/configs/tiny_text.yaml starts; its training ends early, so that RL
can improve it. The second writes a model with random weights and a byte tokenizer, which can encode any text.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from arithmetic import DEMONSTRATIONS_PER_PROBLEM, SEED, draw_slips, question, split, thoughts_and_answer
from character_tokenizer import SPECIAL_TOKENS, save_byte_tokenizer, save_character_tokenizer
from torch import Tensor
from tqdm import trange
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rewards.base import RewardInput
from rewards.loading import load_reward
from unigrpo.algorithm.denoising import denoising_loss, likelihood_bound_weights, text_mask, text_mask_probability
from unigrpo.algorithm.masking import apply_mask
from unigrpo.config import DataConfig, TextSamplingConfig
from unigrpo.data.prompting import decode_completion, encode_prompt
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt
from unigrpo.rng import keyed_generator

RESPONSE_LENGTH = 20
SAMPLING = TextSamplingConfig(max_new_tokens=RESPONSE_LENGTH, num_denoising_steps=10, block_length=10)


def main() -> None:
    """Makes the model, trains it unless its weights are to be random, and saves it."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    (save_byte_tokenizer if arguments.random_bytes else save_character_tokenizer)(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = build(tokenizer)
    if not arguments.random_bytes:
        started = time.monotonic()
        losses = train(model, tokenizer, arguments)
        record = {
            "command": "python " + " ".join(sys.argv),
            "seed": arguments.seed,
            "num_parameters": model.num_parameters(),
            "seconds": round(time.monotonic() - started, 1),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "loss_nats_per_token": losses,
            "held_out": measure(model, tokenizer),
        }
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record["held_out"]))
    model.save_pretrained(folder)


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--random_bytes", action="store_true", help="random weights and a byte tokenizer")
    parser.add_argument("--num_steps", type=int, default=1500, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="rows of a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default: %(default)s)")
    return parser.parse_args()


def build(tokenizer: PreTrainedTokenizerBase) -> MMadaModelLM:
    """Returns a model of the real class with small sizes and random weights."""
    ids = {name: tokenizer.get_vocab()[token] for name, token in SPECIAL_TOKENS.items()}
    model = MMadaModelLM(
        MMadaConfig(
            d_model=96,
            n_layers=3,
            n_heads=4,
            mlp_hidden_size=256,
            vocab_size=len(tokenizer),
            max_sequence_length=1024,
            mask_token_id=ids["mask"],
            bos_token_id=ids["begin_of_text"],
            eos_token_id=ids["end_of_text"],
            pad_token_id=ids["end_of_text"],
            special_token_ids=ids,
            codebook_size=0,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=ids["begin_of_text"], eos_token_id=ids["end_of_text"], pad_token_id=ids["end_of_text"]
    )
    return model


def rows(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> tuple[Tensor, int]:
    """Returns demonstrations of all training problems, padded with end-of-text, and the length of a prompt."""
    rng = random.Random(SEED)
    encoded = []
    for terms in split()[0]:
        prompt = encode_prompt(Prompt(id="", text=question(terms)), tokenizer, vocabulary, DataConfig())
        for _ in range(DEMONSTRATIONS_PER_PROBLEM):
            response = tokenizer.encode(thoughts_and_answer(terms, draw_slips(rng)), add_special_tokens=False)
            response += [vocabulary.end_of_text_id] * (RESPONSE_LENGTH - len(response))
            encoded.append(torch.cat([prompt, torch.tensor(response)]))
    return torch.stack(encoded), encoded[0].shape[0] - RESPONSE_LENGTH


def train(model: MMadaModelLM, tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace) -> list[float]:
    """Trains the model to restore masked tokens of the responses. Returns the loss every 100 steps."""
    vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
    data, prompt_length = rows(tokenizer, vocabulary)
    eligible = (torch.arange(data.shape[1]) >= prompt_length).expand(arguments.batch_size, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.lr, total_steps=arguments.num_steps, pct_start=0.05
    )
    generator = keyed_generator(arguments.seed, "warm start")
    losses: list[float] = []
    model.train()
    for step in (bar := trange(arguments.num_steps, desc="warm start", unit="step")):
        x0 = data[torch.randint(len(data), (arguments.batch_size,), generator=generator)]
        probability = text_mask_probability(torch.rand(len(x0), generator=generator))
        is_masked = text_mask(probability, torch.rand(x0.shape, generator=generator), eligible)
        weight = likelihood_bound_weights(is_masked, probability, eligible.sum(dim=1), num_rows=len(x0))
        out = model(apply_mask(x0, is_masked, vocabulary.mask_id), positions=is_masked, targets=x0[is_masked])
        loss = denoising_loss(torch.zeros_like(weight).masked_scatter(is_masked, out.log_probs), weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            losses.append(round(loss.item(), 4))
            bar.set_postfix(loss=losses[-1])
    model.eval()
    return losses


def measure(model: MMadaModelLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the fraction of right answers on the held-out problems: greedy, and sampled at temperature 1."""
    vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
    prompts = [Prompt(id=str(i), text=question(t), label=str(sum(t))) for i, t in enumerate(split()[1])]
    ids = [encode_prompt(p, tokenizer, vocabulary, DataConfig()) for p in prompts]
    results = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        settings = TextSamplingConfig(
            max_new_tokens=RESPONSE_LENGTH,
            num_denoising_steps=SAMPLING.num_denoising_steps,
            block_length=SAMPLING.block_length,
            temperature=temperature,
        )
        generators = [keyed_generator("measure", i) for i in range(len(ids))]
        samples = sample_text(model, ids, settings, vocabulary, generators=generators)
        completions = [decode_completion(s.token_ids, s.response_mask, tokenizer, vocabulary) for s in samples]
        inputs = [
            RewardInput(prompt=p.text, completion=c, label=p.label) for p, c in zip(prompts, completions, strict=True)
        ]
        for reward in ("math_answer", "cot_format"):
            values = load_reward(reward, {})(inputs)
            results[f"{reward}_{name}"] = round(sum(v or 0.0 for v in values) / len(values), 4)
    return results


if __name__ == "__main__":
    main()
