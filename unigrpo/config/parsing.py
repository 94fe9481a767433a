"""Command lines: one YAML file and dotted flags become a config, and each error is one line."""

# pyright: standard
# jsonargparse and YAML have values of unknown type.

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from unigrpo import ConfigError
from unigrpo.config.old_names import renamed_config, renamed_flags
from unigrpo.config.unigrpo import RunConfig

Config = TypeVar("Config")
UNKNOWN_KEY = re.compile(r"[Oo]ption '([^']+)'")
"""The key in the parser's message about a key of a YAML file that it does not know."""
SECTION_HELP = "Path to a configuration file."
"""The parser's help of a flag that reads a section of settings from a file, of which there are twenty."""
TYPE_ERROR = re.compile(r'Parser key "(?P<name>[^"]+)": Expected a (?P<kinds>.+)\. Got value: (?P<value>.*)')
UNION_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.+)\] '
    r"Errors: .* Given value: (?P<value>.*)"
)
"""The parser's messages about a value that is not of the type, or of one of the types, of its setting."""
SECTION_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": Not a valid subclass of (?P<kinds>\w+)\. Got value: (?P<value>.*?) '
    r"Subclass types .*"
)
"""The parser's message about an item of a list, or a value of a dictionary, that is no section."""
PATH_ERROR = re.compile(
    r'Parser key "(?P<name>[^"]+)": (?P<problem>File does not exist|Path is not a file): (?P<path>.*)'
)
"""The parser's message about a file of settings."""
REQUIRED_ERROR = re.compile(r"the following arguments are required: (.+)")
"""The parser's message about flags that are missing, whose names it gives without the dashes."""
KIND = re.compile(r"<class '[^']+'>|typing\.Literal\[[^\]]*\]")
TYPE_WORDS = {
    "NoneType": "null",
    "bool": "true or false",
    "dict": "settings in braces, such as {name: value}",
    "float": "a number",
    "int": "a whole number",
    "list": "a list, such as [a, b]",
    "str": "a text",
    "tuple": "a list, such as [a, b]",
}
FLAG = re.compile(r"--[A-Za-z][\w.]*")
ELSEWHERE = {
    "actor.eps_clip": "actor.eps_clip_low_high",
    "actor.policy_loss_type": "algo.objective.name",
    "actor_learning_rate": "actor.adam.lr",
    "adam_betas": "actor.adam.betas",
    "adam_epsilon": "actor.adam.eps",
    "advantage_estimator": "algo.advantage.name",
    "algo.advantage.is_correction_threshold": "algo.objective.options",
    "algo.advantage.no_std_norm": "algo.advantage.name",
    "algo.dynamic_filtering_enable": "algo.group_filter.name",
    "algo.dynamic_filtering_range": "algo.group_filter.options",
    "algo.kl.use_loss": "algo.kl.init_coef",
    "async_train": "rollout.max_staleness",
    "attn_implementation": "ds.attn_implementation",
    "beta": "algo.kl.init_coef",
    "bf16": "ds.param_dtype",
    "ckpt.output_dir": "run_dir",
    "ckpt.save_hf": "ckpt.export_steps",
    "ckpt_path": "ckpt.path",
    "cliprange": "actor.eps_clip_low_high",
    "data.apply_chat_template": "data.prompt_template",
    "data.image_key": "data.prompt_dataset",
    "data.input_template": "data.prompt_template",
    "data.max_len": "data.max_prompt_tokens",
    "dataset_name": "data.prompt_dataset",
    "dataset_split": "data.prompt_split",
    "ds.deepcompile": "ds.compile",
    "ds.packing_samples": "ds.attn_implementation",
    "dtype": "ds.param_dtype",
    "dynamic_filtering": "algo.group_filter.name",
    "eps_clip": "actor.eps_clip_low_high",
    "eps_clip_low_high": "actor.eps_clip_low_high",
    "epsilon": "actor.eps_clip_low_high",
    "epsilon_high": "actor.eps_clip_low_high",
    "epsilon_low": "actor.eps_clip_low_high",
    "eval.temperature": "eval.text",
    "eval_dataset": "eval.dataset",
    "eval_steps": "eval.steps",
    "flash_attn": "ds.attn_implementation",
    "generate_max_len": "rollout.text.max_new_tokens",
    "gradient_checkpointing": "actor.gradient_checkpointing_enable",
    "importance_sampling_level": "algo.objective.level",
    "init_kl_coef": "algo.kl.init_coef",
    "input_key": "data.input_key",
    "kl_coef": "algo.kl.init_coef",
    "kl_estimator": "algo.kl.estimator",
    "label_key": "data.label_key",
    "learning_rate": "actor.adam.lr",
    "load_checkpoint": "ckpt.load_enable",
    "log_completions": "logger.rollouts_per_step",
    "logger.tensorboard_dir": "logger.tensorboard",
    "logger.wandb.project": "logger.wandb_project",
    "lora_alpha": "ds.lora.alpha",
    "lora_r": "ds.lora.rank",
    "lora_rank": "ds.lora.rank",
    "lora_target_modules": "ds.lora.target_modules",
    "loss_type": "actor.loss_agg_mode",
    "lr": "actor.adam.lr",
    "lr_scheduler_type": "actor.lr_scheduler",
    "lr_warmup_ratio": "actor.lr_warmup_ratio",
    "lr_warmup_steps": "actor.lr_warmup_ratio",
    "max_ckpt_num": "ckpt.max_num",
    "max_completion_length": "rollout.text.max_new_tokens",
    "max_epochs": "train.num_inner_updates",
    "max_grad_norm": "actor.max_norm",
    "max_new_tokens": "rollout.text.max_new_tokens",
    "max_norm": "actor.max_norm",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_samples": "data.max_samples",
    "max_steps": "train.num_steps",
    "micro_rollout_batch_size": "rollout.micro_batch_size",
    "micro_train_batch_size": "train.micro_batch_size",
    "model_name_or_path": "actor.model_name_or_path",
    "n_samples_per_prompt": "rollout.n_samples_per_prompt",
    "num_episodes": "train.num_steps",
    "num_generations": "rollout.n_samples_per_prompt",
    "num_iterations": "train.num_inner_updates",
    "num_train_epochs": "train.num_steps",
    "output_dir": "run_dir",
    "per_device_train_batch_size": "train.micro_batch_size",
    "pretrain": "actor.model_name_or_path",
    "prompt_data": "data.prompt_dataset",
    "prompt_max_len": "data.max_prompt_tokens",
    "ref_model_mixup_alpha": "algo.reference.ema",
    "ref_model_sync_steps": "algo.reference.reset_steps",
    "remote_rm_url": "reward.terms",
    "report_to": "logger.wandb_project",
    "resume_from_checkpoint": "ckpt.load_enable",
    "reward.model_name_or_path": "reward.terms",
    "reward.overlong_buffer_len": "reward.terms",
    "reward.overlong_penalty_factor": "reward.terms",
    "reward.remote_url": "reward.terms",
    "reward_funcs": "reward.terms",
    "reward_pretrain": "reward.terms",
    "reward_weights": "reward.terms",
    "rollout.max_new_tokens": "rollout.text.max_new_tokens",
    "rollout.temperature": "rollout.text.temperature",
    "rollout.top_p": "rollout.text.top_p",
    "rollout_batch_size": "rollout.batch_size",
    "save_path": "run_dir",
    "save_steps": "ckpt.save_steps",
    "save_total_limit": "ckpt.max_num",
    "scale_rewards": "algo.advantage.name",
    "seed": "train.seed",
    "sync_ref_model": "algo.reference.reset_steps",
    "temperature": "rollout.text.temperature",
    "top_p": "rollout.text.top_p",
    "torch_dtype": "ds.param_dtype",
    "train.async_enable": "rollout.max_staleness",
    "train.batch_size": "rollout.batch_size",
    "train.dynamic_batch_enable": "train.micro_batch_tokens",
    "train.max_epochs": "train.num_inner_updates",
    "train.max_tokens_per_gpu": "train.micro_batch_tokens",
    "train.num_episodes": "train.num_steps",
    "train_batch_size": "rollout.batch_size",
    "use_peft": "ds.lora.rank",
    "use_tensorboard": "logger.tensorboard",
    "use_wandb": "logger.wandb_project",
    "wandb_project": "logger.wandb_project",
    "warmup_ratio": "actor.lr_warmup_ratio",
    "warmup_steps": "actor.lr_warmup_ratio",
    "weight_decay": "actor.adam.weight_decay",
    "zero_stage": "ds.zero_stage",
}
"""Names of settings in TRL and OpenRLHF, and their names here."""

MAX_VALUES = 100_000
"""Largest number of values in a YAML text. A reference to an anchor counts as all the values that it stands for, so
that a short text cannot fill the memory."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)
_load_yaml = get_loader("yaml")


def load_yaml(text: str, load: Callable[[str], Any] = _load_yaml) -> Any:
    """Returns the content of a YAML text, with the old names of settings replaced.

    Args:
        text: The text.
        load: Reads it. What a program has written is read by ``yaml.safe_load``, which takes `1e5` for a text, as the
            writer does; what a user has written by the loader of jsonargparse, which takes it for a number.

    Raises:
        YAMLError: The text is no YAML, or its content is nested too deeply, contains itself or has too many values.
    """
    try:
        content = load(text)
        number = _number_of_values(content, {})
    except RecursionError as error:
        raise yaml.YAMLError("the YAML text is nested too deeply, or an anchor in it contains itself") from error
    if number > MAX_VALUES:
        raise yaml.YAMLError(
            f"the YAML text has {number} values after its anchors are expanded, more than the {MAX_VALUES} that a "
            "config may have; use fewer anchors"
        )
    return renamed_config(content)


def _number_of_values(content: Any, known: dict[int, int]) -> int:
    """Counts the values of nested lists and dictionaries, with those that stand in several places once for each place.

    Args:
        content: The lists and dictionaries. A RecursionError says that they are too deep or contain themselves.
        known: The counts of lists and dictionaries that have been counted, by their ids. It gets those of this one.
    """
    if not isinstance(content, (list, dict)):
        return 1
    if id(content) not in known:
        children = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_number_of_values(child, known) for child in children)
    return known[id(content)]


set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


def run_parser(program: str, description: str, config: type = RunConfig) -> ArgumentParser:
    """Returns a parser whose dotted flags are the fields of a config's class."""
    parser = ArgumentParser(
        prog=program,
        description=description,
        usage="%(prog)s [--config FILE.yaml] [--section.name VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with settings; flags after it override it")
    parser.add_class_arguments(config)
    hide_sections(parser)
    return parser


def hide_sections(parser: ArgumentParser) -> None:
    """Leaves the flags that read a whole section from a file out of the help of a parser, which still takes them."""
    for action in parser._actions:
        if action.help == SECTION_HELP:
            action.help = SUPPRESS


def hide_flags(parser: ArgumentParser, prefixes: Sequence[str], but: Sequence[str] = ()) -> None:
    """Leaves flags out of the help of a parser, which still takes them.

    Args:
        parser: The parser.
        prefixes: Beginnings of the dotted names of the flags.
        but: Names that stay in the help.
    """
    for action in parser._actions:
        if action.dest.startswith(tuple(prefixes)) and action.dest not in but:
            action.help = SUPPRESS


def parse(parser: ArgumentParser, arguments: Sequence[str], config: type | None = None) -> Any:
    """Parses and constructs the dataclasses, so that wrong values fail here.

    Args:
        parser: The parser.
        arguments: The command line.
        config: The class of the config, whose nested field names an error may suggest.

    Raises:
        ValueError: A flag or value is wrong; the message says which.
    """
    given = renamed_flags(arguments)
    try:
        parsed = parser.parse_args(given)
        if config is not None:
            _check_values(config, parsed, "")
        return parser.instantiate(parsed)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config file is no UTF-8 text ({error}); save it as UTF-8") from error
    except ArgumentError as error:
        message = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        flags = {flag for action in parser._actions for flag in action.option_strings if FLAG.fullmatch(flag)}
        message = _in_words(message)
        wrong = [name for a in given if a.startswith("--") and (name := a.split("=")[0]) not in flags]
        if wrong:
            raise ConfigError(f"{message}{_hint(wrong[0], flags, '--')}") from error
        if in_file := UNKNOWN_KEY.search(message):
            known = {part for flag in flags for part in flag[2:].split(".")} | _field_names(config)
            unknown = [key for key in in_file[1].split(".") if key not in known]
            message += _hint(unknown[0], known, "") if unknown else ""
        raise ConfigError(message) from error
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:  # a path with a null character, a number that no float holds
        raise ConfigError(f"a value of the config is not possible ({error}); give another one") from error


def _check_values(hint: Any, value: Any, name: str) -> None:
    """Raises ConfigError for a null that its setting does not allow, and for another value in place of a section.

    The parser takes null for any setting, as a line of YAML without a value has it.

    Args:
        hint: The type of the value.
        value: What the parser made of it.
        name: Dotted name of the setting; empty for the whole config.
    """
    kinds = get_args(hint)
    if value is None and hint is not Any and type(None) not in kinds:
        raise ConfigError(f"{name} is null in the config; give it a value, or leave it out to use the default")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # a default
            return
        if not isinstance(value, (Namespace, dict)):
            last = name.rpartition(".")[2]
            raise ConfigError(
                f"{name} is {value!r} in the config; it is a section, so write {last}: {{SETTING: VALUE}}"
            )
        for field, kind in get_type_hints(hint).items():
            if field in value:
                _check_values(kind, value[field], f"{name}.{field}".lstrip("."))
    elif isinstance(value, (list, tuple)) and get_origin(hint) in (list, tuple):
        for place, item in enumerate(value):
            _check_values(kinds[min(place, len(kinds) - 1 - (kinds[-1] is ...))], item, f"{name}[{place}]")
    elif isinstance(value, dict) and get_origin(hint) is dict:
        for key, item in value.items():
            _check_values(kinds[1], item, f"{name}.{key}")
    elif get_origin(hint) in (Union, UnionType) and value is not None:
        for kind in kinds:
            if get_origin(kind) in (list, tuple, dict):
                _check_values(kind, value, name)


def _in_words(message: str) -> str:
    r"""Returns the parser's message about a value of a wrong type in words.

    >>> _in_words('Parser key "train.num_steps": Expected a <class \'int\'>. Got value: ten')
    "train.num_steps is 'ten'; it must be a whole number"
    >>> _in_words("the following arguments are required: prompts, output")
    'these flags are missing: --prompts, --output; --help explains them'
    """
    if found := PATH_ERROR.fullmatch(message):
        problem = "no such file" if "exist" in found["problem"] else "this is no file"
        return f"--{found['name']} {found['path']}: {problem}; name a YAML file"
    if found := REQUIRED_ERROR.fullmatch(message):
        return (
            f"these flags are missing: {', '.join('--' + name for name in found[1].split(', '))}; --help explains them"
        )
    found = TYPE_ERROR.fullmatch(message) or UNION_ERROR.fullmatch(message) or SECTION_ERROR.fullmatch(message)
    if found is None:
        return message
    kinds = [_kind_in_words(kind) for kind in KIND.findall(found["kinds"])] or [TYPE_WORDS["dict"]]
    return f"{found['name']} is {found['value']!r:.200}; it must be {' or '.join(kinds)}"


def _kind_in_words(kind: str) -> str:
    """Returns a type of the parser's messages in words."""
    if kind.startswith("typing.Literal"):
        return f"one of {kind.removeprefix('typing.Literal')[1:-1]}"
    name = kind.removeprefix("<class '").removesuffix("'>")
    return TYPE_WORDS.get(name, f"a {name.rpartition('.')[2]}")


def _hint(wrong: str, known: set[str], prefix: str) -> str:
    """Returns the end of an error message: the nearest name, the name here of a setting of TRL, or where to look."""
    name = ELSEWHERE.get(wrong.removeprefix(prefix))
    if name is not None and (f"--{name}" in known or not prefix):
        return f"; here it is called {prefix}{name}"
    close = difflib.get_close_matches(wrong, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists the flags"


def _field_names(config: type | None) -> set[str]:
    """Returns the names of all fields of a config, those of the classes in its lists and dictionaries included."""
    names: set[str] = set()
    hints: list[Any] = [config]
    seen: set[Any] = set()
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            names |= {field.name for field in dataclasses.fields(hint)}
            hints += get_type_hints(hint).values()
    return names


def config_from_args(parsed: Any, config: type[Config]) -> Config:
    """Returns the config of a parsed command line."""
    return config(**{field.name: parsed[field.name] for field in dataclasses.fields(config)})  # type: ignore[arg-type]


def config_from_yaml(config: type[Config], file: str | Path, overrides: Mapping[str, Any]) -> Config:
    """Returns the config of a YAML file, read as the commands read it.

    Args:
        config: The class of the config.
        file: The YAML file.
        overrides: Values that replace those of the file, by dotted name: ``{"train.num_steps": 1}``.

    Raises:
        ConfigError: The file cannot be read, or a name or value in it or in `overrides` is wrong.
    """
    arguments = ["--config", str(file)]
    for name, value in overrides.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    parsed = parse(run_parser(config.__name__, "", config), arguments, config)
    return config_from_args(parsed, config)
