"""Checks the rows of the tasks."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer

from unigrpo.data import layouts
from unigrpo.models.vocabulary import Vocabulary

from .case import Case, NotApplicable


def vocabulary_of(params: dict[str, Any]) -> Vocabulary:
    reserved = params["reserved"]
    return Vocabulary(
        mask_id=params["mask_id"],
        begin_of_text_id=params["bos"],
        end_of_text_id=params["eos"],
        end_header_id=params["end_header"],
        soi_id=reserved["<|soi|>"],
        eoi_id=reserved["<|eoi|>"],
        t2i_id=reserved["<|t2i|>"],
        mmu_id=reserved["<|mmu|>"],
        r2i_id=reserved["<|r2i|>"],
        image_pad_id=reserved["[iPAD]"],
        image_offset=0,  # the arrays have codes instead of token ids of images
        codebook_size=2**31,
    )


def texts_of(case: Case) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(case.folder / case.params["tokenizer"]))
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in case.params["texts"]]


def compare(case: Case, rows: list[layouts.TrainingRow], **masks: str) -> None:
    """Compares ids, labels and the given masks with the arrays of the original."""
    for name, array in {"token_ids": "out.input_ids", "labels": "out.labels", **masks}.items():
        case.exact(name, torch.stack([getattr(row, name) for row in rows]), case[array])


def check_t2i(case: Case) -> None:
    visible, labels = case["in.image_ids_masked"], case["in.image_labels"]
    hidden, ids = labels != layouts.IGNORED, vocabulary_of(case.params)
    codes = torch.where(hidden, labels, visible)
    draws = case["in.dropout_uniform"].tolist()
    rows = []
    for text, draw, own, is_masked in zip(texts_of(case), draws, codes, hidden, strict=True):
        caption = layouts.drop_condition(text, draw, case.params["cond_dropout_prob"])
        rows.append(layouts.t2i_row(caption, own, is_masked, ids, max_text_tokens=case.params["S"]))
    compare(case, rows, token_mask="out.attention_mask")


def check_t2i_gen(case: Case) -> None:
    """The row of an image to generate equals a row of training with all codes masked."""
    codes = torch.zeros(case.params["N"], dtype=torch.long)
    everything, ids = torch.ones_like(codes).bool(), vocabulary_of(case.params)
    rows = [layouts.t2i_row(text, codes, everything, ids, max_text_tokens=case.params["S"]) for text in texts_of(case)]
    image = case["in.image_ids"]
    case.require("the image is not all masks", bool((image == case.params["mask_id"]).all()))
    case.exact("ids", torch.stack([row.token_ids for row in rows]), case["out.input_ids"])
    case.exact("mask", torch.stack([row.token_mask for row in rows]), case["out.attention_mask"])


def check_lm(case: Case) -> None:
    compare(case, lm_rows(case), token_mask="out.attention_mask")


def lm_rows(case: Case) -> list[layouts.TrainingRow]:
    length = case.params["max_seq_len"]
    return [layouts.lm_row(text, vocabulary_of(case.params), num_tokens=length) for text in texts_of(case)]


def check_lm_chat(case: Case) -> None:
    compare(case, chat_rows(case), prompt_mask="out.prompt_mask")


def chat_rows(case: Case) -> list[layouts.TrainingRow]:
    length = case.params["max_seq_len"]
    return [layouts.lm_chat_row(text, vocabulary_of(case.params), num_tokens=length) for text in texts_of(case)]


def check_mmu(case: Case) -> None:
    compare(case, mmu_rows(case), prompt_mask="out.prompt_mask")


def mmu_rows(case: Case) -> list[layouts.TrainingRow]:
    ids = vocabulary_of(case.params)
    return [
        layouts.mmu_row(codes, text, ids, max_text_tokens=case.params["S"])
        for text, codes in zip(texts_of(case), case["in.image_ids"], strict=True)
    ]


def check_r2i(case: Case) -> None:
    ids = vocabulary_of(case.params)
    rows = [
        layouts.r2i_row(text, codes, ids, max_text_tokens=case.params["S"])
        for text, codes in zip(texts_of(case), case["in.image_ids"], strict=True)
    ]
    compare(case, rows, prompt_mask="out.prompt_mask")


def check_missing_header(case: Case) -> None:
    raise NotApplicable(
        "the original takes the unknown token for the end of a header; without one our rows have no chat prompt"
    )


CHECKS = {
    "prompt_t2i_gen": check_t2i_gen,
    "prompt_t2i": check_t2i,
    "prompt_lm_chat": check_lm_chat,
    "prompt_lm": check_lm,
    "prompt_mmu": check_mmu,
    "prompt_r2i": check_r2i,
    "prompt_missing_header": check_missing_header,
}
