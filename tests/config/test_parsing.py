"""Tests command lines: YAML files, flags that override them, help texts of all fields, and errors of one line."""

import dataclasses

import pytest
import yaml

from unigrpo import ConfigError
from unigrpo.config import RewardTermConfig, RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.config.names_elsewhere import ELSEWHERE
from unigrpo.config.parsing import config_from_args, parse, run_parser
from unigrpo.runs.config_file import config_text


def config(*arguments):
    parser = run_parser("unigrpo train", "Trains.", RunConfig)
    return config_from_args(parse(parser, arguments, RunConfig), RunConfig)


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {num_steps: 7, seed: 3}\nreward: {terms: [{name: cot_format, weight: 0.5}]}\n")
    run = config("--config", str(file), "--train.seed", "4", "--actor.eps_clip_low_high", "[0.1, 0.3]")
    assert (run.train.num_steps, run.train.seed) == (7, 4)
    assert run.train.num_inner_updates == RunConfig().train.num_inner_updates
    assert run.reward.terms == (RewardTermConfig(name="cot_format", weight=0.5),)
    assert run.actor.eps_clip_low_high == (0.1, 0.3)


def test_the_config_that_a_run_writes_starts_the_same_run(tmp_path):
    run = config("--train.seed", "9", "--algo.likelihood.options", "{num_views: 2}")
    file = tmp_path / "config.yaml"
    file.write_text(config_text(run))
    assert config("--config", str(file)) == run
    assert file.read_text().startswith("# commit: ")


def test_secrets_in_reward_options_are_not_written():
    run = config("--reward.terms", "[{name: judge, options: {api_key: abc123, model: m}}]")
    written = yaml.safe_load(config_text(run))["reward"]["terms"][0]["options"]
    assert written == {"api_key": "(hidden)", "model": "m"}


def test_every_field_has_a_help_text():
    parser = run_parser("unigrpo train", "Trains.", RunConfig)
    text = " ".join(parser.format_help().split())
    for section in dataclasses.fields(RunConfig):
        if dataclasses.is_dataclass(section.default_factory):
            for field in dataclasses.fields(section.default_factory):
                assert f"--{section.name}.{field.name}" in text
    undocumented = [
        action.dest
        for action in parser._actions
        if action.option_strings and not action.help and not action.dest.endswith("help")
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lmm: {batch_size: 1}", "did you mean lm?"),
        ("layout: {condition_drop: 1}", "did you mean condition_dropout?"),
        ("lm: {sources: {a: {kind: text, task: lm, path: a, max_chars: 1}}}", "did you mean max_characters?"),
        ("t2i: {sources: {a: {task: t2i, path: a, captions: {stor: json}}}}", "did you mean store?"),
        ("lm: {qqq: 1}", "--help lists the flags"),
    ],
)
def test_an_unknown_key_of_a_file_gets_the_nearest_name(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"not accept") as caught:
        parse(run_parser("x", "x", StageConfig), ["--config", str(tmp_path / "a.yaml")], StageConfig)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.num_step", "3"], "did you mean --train.num_steps?"),
        (["--train.num_steps", "three"], "train.num_steps is 'three'; it must be a whole number"),
        (["--actor.adam.lr", "fast"], "actor.adam.lr is 'fast'; it must be a number"),
        (["--train.colocate_actor_ref", "perhaps"], "train.colocate_actor_ref is 'perhaps'; it must be true or false"),
        (["--actor.lr_scheduler", "x"], "actor.lr_scheduler is 'x'; it must be one of 'constant_with_warmup', 'cos"),
        (["--actor.eps_clip_low_high", "a"], "actor.eps_clip_low_high is 'a'; it must be a list, such as [a, b]"),
        (["--ckpt.load_enable", "maybe"], "ckpt.load_enable is 'maybe'; it must be true or false or one of 'auto'"),
        (["--beta", "0.1"], "here it is called --algo.kl.init_coef"),
        (["--learning_rate", "1e-6"], "here it is called --actor.adam.lr"),
        (["--num_generations", "8"], "here it is called --rollout.n_samples_per_prompt"),
        (["--actor_learning_rate", "1e-6"], "here it is called --actor.adam.lr"),
        (["--init_kl_coef", "0.01"], "here it is called --algo.kl.init_coef"),
        (["--train.batch_size", "128"], "here it is called --rollout.batch_size"),
        (["--ckpt.output_dir", "out"], "here it is called --run_dir"),
        (["--scale_rewards", "false"], "here it is called --algo.advantage.name"),
        (["--rollout.n_samples_per_prompt", "1"], "use at least 2"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--algo.mask_ratio.schedule", "zigzag"], "'stride', 'interpolate', 'random'"),
    ],
)
def test_a_wrong_flag_or_value_is_named(arguments, message):
    with pytest.raises(ValueError, match=r".") as caught:
        config(*arguments)
    assert message in str(caught.value)


FLAGS = {
    flag for action in run_parser("unigrpo train", "Trains.", RunConfig)._actions for flag in action.option_strings
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_names_of_other_frameworks_lead_to_settings_that_exist(name):
    assert f"--{name}" not in FLAGS
    assert f"--{ELSEWHERE[name]}" in FLAGS


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, f"the YAML text has {1 + sum(sum(10**k for k in range(n + 2)) for n in range(10))} values"),
        ("a: &a [*a]", "nested too deeply, or an anchor in it contains itself"),
        ("a: " + "[" * 3000, "exceeded maximum nesting depth at line 1"),
        ("a: [1, 2\nb: }", "did not find expected ',' or ']' at line 2, column 2"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: \0", "control characters are not allowed"),
        ("train: [1]", "train is [1] in the config; it is a section"),
        ("rollout: {text: 3}", "rollout.text is 3 in the config; it is a section"),
        ("ckpt: {save_steps: }", "ckpt.save_steps is null in the config; give it a value, or leave it out"),
        ("train: {num_steps: 1}\nckpt:\n", "ckpt is null in the config"),
        ("actor: {adam: {betas: [0.9, null]}}", "actor.adam.betas is 'None'; it must be a number"),
        ("reward: {terms: [{name: cot_format, weight: null}]}", "reward.terms[0].weight is null in the config"),
        ("algo: {tasks: {t2i: {loss_coef: null}}}", "algo.tasks.t2i.loss_coef is null in the config"),
        ("algo: {tasks: {t2i: null}}", "algo.tasks is 'None'; it must be settings in braces"),
        ("reward: {terms: [3]}", "reward.terms is '3'; it must be settings in braces"),
        ("actor: {max_norm: 1" + "0" * 400 + "}", "int too large to convert to float"),
        ("data: {max_prompt_tokens: " + "b" * 5000 + "}", "data.max_prompt_tokens is 'bbb"),
        ("abc", "Unexpected config: abc"),
        ("a: \udcff", "not UTF-8 text"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        config("--config", str(tmp_path / "a.yaml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_file_that_is_not_a_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match=rf"^--config '{tmp_path}/a.yaml': no such file; name a YAML file$"):
        config("--config", str(tmp_path / "a.yaml"))
    with pytest.raises(ConfigError, match=rf"^--config '{tmp_path}': this is no file; name a YAML file$"):
        config("--config", str(tmp_path))


def test_null_is_a_value_where_a_setting_allows_it(tmp_path):
    (tmp_path / "a.yaml").write_text("reward: {terms: [{name: cot_format, weight: 1.0, num_cpus: null}]}")
    assert config("--config", str(tmp_path / "a.yaml")).reward.terms[0].num_cpus is None


def test_anchors_below_the_limit_are_allowed(tmp_path):
    (tmp_path / "a.yaml").write_text("actor: {eps_clip_low_high: &a [0.1, 0.3], adam: {betas: *a}}\n")
    actor = config("--config", str(tmp_path / "a.yaml")).actor
    assert actor.eps_clip_low_high == actor.adam.betas == (0.1, 0.3)


@pytest.mark.parametrize("value", ["a: b: c", "*x", "{a: *x", "!!x"])
def test_the_text_of_a_flag_need_not_be_yaml(value):
    assert config("--run_dir", value).run_dir == value
