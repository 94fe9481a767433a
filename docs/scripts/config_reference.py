"""Writes the reference of all settings as Markdown, from the dataclasses in unigrpo/config.

The source text is parsed and not imported, so that the documentation can be built where PyTorch is not installed:

    python docs/scripts/config_reference.py > config_reference.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "unigrpo" / "config"
ROOTS = {
    "RunConfig": ("UniGRPO", "unigrpo train"),
    "StageConfig": ("Pretraining and Mix-CoT", "unigrpo pretrain` and `unigrpo mixcot"),
}
"""The config of each command: title of its section, and the commands."""


@dataclass(frozen=True)
class Setting:
    """One field of a config class."""

    name: str
    type: str
    default: str
    text: str


class ConfigClasses:
    """The dataclasses of a package, read from its source text."""

    def __init__(self, package: Path = CONFIG) -> None:
        """Parses every module of the package.

        Args:
            package: Folder with Python files.
        """
        self._classes: dict[str, ast.ClassDef] = {}
        self._aliases: dict[str, str] = {}
        for path in sorted(package.glob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    self._classes[node.name] = node
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self._aliases[node.targets[0].id] = ast.unparse(node.value)

    def fields(self, name: str) -> list[Setting]:
        """Returns the settings of a class, those of its base classes first."""
        found: dict[str, Setting] = {}
        for base in self._classes[name].bases:
            if isinstance(base, ast.Name) and base.id in self._classes:
                found |= {setting.name: setting for setting in self.fields(base.id)}
        body = self._classes[name].body
        for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if "ClassVar" not in ast.unparse(node.annotation):
                found[node.target.id] = Setting(
                    name=node.target.id,
                    type=self._type(node.annotation),
                    default=_default(node.value),
                    text=_text(following),
                )
        return list(found.values())

    def inner_class(self, type_name: str) -> str:
        """Returns the config class that a type is or holds; empty for plain values."""
        names = [node.id for node in ast.walk(ast.parse(type_name)) if isinstance(node, ast.Name)]
        return next((name for name in names if name in self._classes), "")

    def _type(self, annotation: ast.expr) -> str:
        text = ast.unparse(annotation)
        return self._aliases.get(text, text) if self._aliases.get(text, "").startswith("Literal") else text


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return ast.unparse(value)
    factory = next((ast.unparse(keyword.value) for keyword in value.keywords if keyword.arg == "default_factory"), "")
    if factory.startswith("lambda"):
        return factory.split(":", 1)[1].strip()
    return {"dict": "{}", "list": "[]"}.get(factory.split("[")[0], "")


def _text(node: ast.stmt) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return " ".join(node.value.value.split()) if is_text else ""  # pyright: ignore


def config_reference() -> str:
    """Returns a Markdown page with a table for each section of each config."""
    classes = ConfigClasses()
    lines = [
        "# Config reference",
        "",
        "This page is generated from the dataclasses in `unigrpo/config`. A setting is a key of the YAML file and",
        "a flag of the command; the flag is the dotted name, for example `--algo.kl.init_coef 0.02`.",
    ]
    for root, (title, command) in ROOTS.items():
        lines += ["", f"## {title}", "", f"These are the settings of `{command}`."]
        lines += _tables(classes, root, "", {})
    return "\n".join(lines) + "\n"


def _tables(classes: ConfigClasses, name: str, prefix: str, seen: dict[str, str]) -> Iterator[str]:
    """Yields the table of a class, and then those of the classes that its fields hold.

    Args:
        classes: All config classes.
        name: The class.
        prefix: Path of the class within the config, with a dot at its end.
        seen: Path at which each class was described, so that none is described twice.
    """
    settings = classes.fields(name)
    inner = {setting.name: classes.inner_class(setting.type) for setting in settings}
    plain = [setting for setting in settings if inner[setting.name] != setting.type]
    if plain:
        yield from ("", "| setting | type | default | meaning |", "|---|---|---|---|")
        for setting in plain:
            cells = (f"`{prefix}{setting.name}`", f"`{setting.type}`", f"`{setting.default}`", setting.text)
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("``", "") for cell in cells) + " |"
    for setting in settings:
        held = inner[setting.name]
        key = prefix + setting.name + _key(setting.type)
        if held in seen:
            yield from ("", f"### `{key}`", "", f"{setting.text} The settings are those of `{seen[held]}`.")
        elif held:
            seen[held] = key
            yield from ("", f"### `{key}`", "", setting.text)
            yield from _tables(classes, held, f"{key}.", seen)


def _key(type_name: str) -> str:
    """Returns what stands between a setting and the fields of the classes that it holds."""
    if type_name.startswith("dict"):
        return ".NAME"
    return "[]" if type_name.startswith(("list", "tuple")) else ""


if __name__ == "__main__":
    sys.stdout.write(config_reference())
