"""Loads a DeepSpeed checkpoint on a number of ranks that differs from that of the run that wrote it.

Every rank builds the optimizer state that it would have saved itself, from the files of all ranks, and DeepSpeed loads
this state as its own. The files are memory-mapped, so that a rank reads only the values that it keeps, and nothing is
written.

DeepSpeed's universal checkpoints are not used. After such a load under ZeRO-3, the parameter groups of DeepSpeed
0.19.6 share one step count, so that Adam counts every update once for each group, and all groups take the weight decay
of the first one. The conversion also needs twice the disk space of the optimizer states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.checkpoint.constants import (
    BASE_OPTIMIZER_STATE,
    FP32_FLAT_GROUPS,
    FROZEN_PARAM_FRAGMENTS,
    FROZEN_PARAM_SHAPES,
    OPTIMIZER_STATE_DICT,
    PARAM_SHAPES,
    SINGLE_PARTITION_OF_FP32_GROUPS,
)
from jaxtyping import Shaped
from torch import Tensor

from unigrpo import CheckpointError
from unigrpo.distributed.deepspeed_files import load_mapped

Shapes = Sequence[Mapping[str, torch.Size]]
"""Shapes of the trained parameters by name, in the order in which DeepSpeed puts them into its flat tensors, which are
the elements."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Values that lie over all ranks in pieces of equal length; padding follows the last value."""

    group: int
    """The flat tensor of each rank that holds its piece."""
    numel: int
    """Number of values of all ranks without padding."""
    piece: int
    """Number of values of one rank with padding."""
    offset: int
    """Place of the piece in the flat tensor."""


def check_fits(engine: DeepSpeedEngine, folder: Path) -> int:
    """Compares a DeepSpeed checkpoint with the engine that is to load it. It reads no values of tensors.

    Args:
        engine: The engine.
        folder: The folder of DeepSpeed's files.

    Returns:
        The number of ranks that wrote the checkpoint.

    Raises:
        CheckpointError: A rank's file is missing, or the checkpoint belongs to another model, other adapters or
            another ZeRO stage.
    """
    model = load_mapped(_model_files(folder, 1, engine.zero_optimization_partition_weights())[0])
    num_ranks, num_files = model["dp_world_size"], len(_optimizer_files(folder))
    if not engine.zero_optimization():
        if num_files:
            raise CheckpointError(
                f"{folder}: the optimizer states are sharded, but ds.zero_stage 0 does not shard them; set "
                "ds.zero_stage as it was, or start a new run"
            )
        return num_ranks
    if num_files != num_ranks:
        raise CheckpointError(
            f"{folder}: {num_ranks} ranks wrote the checkpoint, but it has the optimizer states of {num_files}; "
            "restore the files, set ds.zero_stage as it was, or name another checkpoint"
        )
    before, now = _all_shapes(model[PARAM_SHAPES]), _all_shapes(engine._get_zero_param_shapes())
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{folder}: the checkpoint and the run train different weights, {len(different)} in all; the shape of "
            f"{name} is {before.get(name, 'absent')} in the checkpoint and {now.get(name, 'absent')} in the run; set "
            "the model and ds.lora as they were, or start a new run"
        )
    return num_ranks


def load_resharded(engine: DeepSpeedEngine, folder: Path) -> None:
    """Loads weights, optimizer and schedule from the files of any number of ranks; all ranks call it, after
    :func:`check_fits`, inside :func:`~unigrpo.distributed.deepspeed_files.without_code`.

    Args:
        engine: A new engine of ZeRO stage 1, 2 or 3, the one that wrote the checkpoint.
        folder: The folder of DeepSpeed's files.

    Raises:
        CheckpointError: A rank's file is missing, or it holds other optimizer states.
    """
    optimizer: Any = engine.optimizer
    is_sharded = engine.zero_optimization_partition_weights()
    files = _optimizer_files(folder)
    shards = [load_mapped(file)[OPTIMIZER_STATE_DICT] for file in files]
    models = [load_mapped(file) for file in _model_files(folder, len(files), is_sharded)]
    if hasattr(optimizer, "checkpoint_event_prologue"):
        optimizer.checkpoint_event_prologue()
    model = dict(models[0])
    if is_sharded and model.get(FROZEN_PARAM_FRAGMENTS):
        model[FROZEN_PARAM_FRAGMENTS] = _frozen(models, engine)
    engine.load_module_state_dict(model)
    state = _own_state(engine, shards, model[PARAM_SHAPES], is_sharded, folder)
    optimizer.load_state_dict([state] * dist.get_world_size(), load_from_fp32_weights=True)
    if hasattr(optimizer, "checkpoint_event_epilogue"):
        optimizer.checkpoint_event_epilogue()
    scheduler: Any = engine.lr_scheduler
    scheduler.load_state_dict(model["lr_scheduler"])
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, model[counter])


def own_part(flats: Sequence[Shaped[Tensor, " _"]], saved: Run, wanted: Run, rank: int) -> Shaped[Tensor, " piece"]:
    """Returns a rank's piece of a run, with zeros as padding.

    Args:
        flats: The flat tensor of every rank that saved.
        saved: Where the run lies in them.
        wanted: Where the run lies on the ranks that load.
        rank: The rank that loads.

    Returns:
        The piece, of length ``wanted.piece``.
    """
    part = torch.zeros(wanted.piece, dtype=flats[0].dtype)
    first = rank * wanted.piece
    last = min(first + wanted.piece, wanted.numel)
    for source, flat in enumerate(flats):
        begin = source * saved.piece
        start, stop = max(first, begin), min(last, begin + saved.piece)
        if start < stop:
            moved = saved.offset - begin
            part[start - first : stop - first] = flat[start + moved : stop + moved]
    return part


def sharded_runs(shapes: Shapes, num_ranks: int) -> dict[str, Run]:
    """Returns the places of ZeRO-3, which cuts every parameter into a piece for each rank."""
    runs: dict[str, Run] = {}
    for group, named in enumerate(shapes):
        offset = 0
        for name, shape in named.items():
            piece = -(-shape.numel() // num_ranks)
            runs[name] = Run(group=group, numel=shape.numel(), piece=piece, offset=offset)
            offset += piece
    return runs


def flat_runs(shapes: Shapes, pieces: Sequence[int]) -> dict[str, Run]:
    """Returns the places of ZeRO-1 and ZeRO-2, which lay all parameters of a group one after the other and cut them
    into a piece for each rank.

    Args:
        shapes: Shapes of the parameters by name, by group.
        pieces: Number of values of one rank with padding, by group.

    Returns:
        One run for each group, under the names of its parameters.
    """
    return {
        " ".join(named): Run(group=group, numel=sum(s.numel() for s in named.values()), piece=pieces[group], offset=0)
        for group, named in enumerate(shapes)
    }


def _own_state(
    engine: DeepSpeedEngine, shards: Sequence[dict[str, Any]], shapes: Shapes, is_sharded: bool, folder: Path
) -> dict[str, Any]:
    """Returns the state that this rank would have saved on the present number of ranks."""
    optimizer: Any = engine.optimizer
    own_shapes: Shapes = engine._get_zero_param_shapes()
    base = OPTIMIZER_STATE_DICT if is_sharded else BASE_OPTIMIZER_STATE
    masters = FP32_FLAT_GROUPS if is_sharded else SINGLE_PARTITION_OF_FP32_GROUPS
    if base not in shards[0]:
        raise CheckpointError(f"{folder}: written under another ZeRO stage; set ds.zero_stage as it was")
    states = [shard[base]["state"] for shard in shards]
    if is_sharded:
        saved, wanted = sharded_runs(shapes, len(shards)), sharded_runs(own_shapes, dist.get_world_size())
    else:
        saved = flat_runs(shapes, [states[0][group]["exp_avg"].numel() for group in range(len(shapes))])
        wanted = flat_runs(own_shapes, [flat.numel() for flat in optimizer.single_partition_of_fp32_groups])

    if {name: run.numel for name, run in saved.items()} != {name: run.numel for name, run in wanted.items()}:
        raise CheckpointError(
            f"{folder}: the optimizer states have the weights in another order than the run; resume with "
            f"{len(shards)} policy ranks and the version of this program that wrote the checkpoint, or start a new run"
        )

    def part(name: str, flats: Sequence[Tensor]) -> Tensor:
        return own_part(flats, saved[name], wanted[name], engine.global_rank)

    weights: list[Tensor] = []
    own_states: dict[int, dict[str, Any]] = {}
    for group in range(len(own_shapes)):
        names = [name for name, run in wanted.items() if run.group == group]
        source = {name: saved[name].group for name in names}
        weights.append(torch.cat([part(name, [shard[masters][source[name]] for shard in shards]) for name in names]))
        own_states[group] = {
            key: torch.cat([part(name, [state[source[name]][key] for state in states]) for name in names])
            if torch.is_tensor(value) and value.dim()
            else torch.as_tensor(value).clone()
            for key, value in states[0][source[names[0]]].items()
        }
    state = optimizer.state_dict()
    options = zip(shards[0][base]["param_groups"], state[base]["param_groups"], strict=True)
    groups = [before | {"params": now["params"]} for before, now in options]
    return state | {masters: weights, base: {"state": own_states, "param_groups": groups}}


def _frozen(models: Sequence[dict[str, Any]], engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Returns this rank's pieces of the weights that do not train, under ZeRO-3."""
    shapes = models[0][FROZEN_PARAM_SHAPES]
    pieces: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        saved, wanted = (sharded_runs([{name: shape}], ranks)[name] for ranks in (len(models), dist.get_world_size()))
        pieces[name] = own_part([m[FROZEN_PARAM_FRAGMENTS][name] for m in models], saved, wanted, engine.global_rank)
    return pieces


def _all_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the parameters of all groups by name."""
    return {name: tuple(shape) for group in shapes for name, shape in group.items()}


def _optimizer_files(folder: Path) -> list[Path]:
    """Returns the files of the optimizer states by rank; empty if they were not sharded."""
    found = {
        int(match[1]): file
        for file in folder.glob("*_optim_states.pt")
        if (match := re.search(r"zero_pp_rank_(\d+)_mp_rank_00_", file.name))
    }
    ranks = max(found, default=-1) + 1
    missing = [rank for rank in range(ranks) if rank not in found]
    if missing:
        raise CheckpointError(
            f"{folder}: the optimizer states of rank {missing[0]} are missing; restore the files, or name another "
            "checkpoint"
        )
    return [found[rank] for rank in range(ranks)]


def _model_files(folder: Path, num_ranks: int, is_sharded: bool) -> list[Path]:
    """Returns the files of the weights: one of each rank under ZeRO-3, else one."""
    names = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(num_ranks)]
    files = [folder / name for name in (names if is_sharded else ["mp_rank_00_model_states.pt"])]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {missing[0]} is missing; restore the files, set ds.zero_stage as it was, or name another "
            "checkpoint"
        )
    return files
