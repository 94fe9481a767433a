"""Registration of our models with the auto classes of transformers by ``import unigrpo``, which must not import torch.

``AutoConfig`` looks up the model type of a checkpoint in a table. An import hook adds two entries to this table as
soon as transformers has created it. Looking up an entry imports our module, which then registers its classes. The
modules cannot be imported earlier, because transformers creates the table while it is being imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TABLE = "transformers.models.auto.configuration_auto"
"""The module with the table."""
OURS = {"mmada": "unigrpo.models.mmada", "magvitv2": "unigrpo.models.image_tokenizer"}
"""Our model types, and the modules that register them on import."""


def register_when_looked_up() -> None:
    """Adds our model types to the table of model types, now or when transformers creates it."""
    if TABLE in sys.modules:
        _add_to_table(sys.modules[TABLE])
    elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


class _Registered(dict[Any, Any]):
    """The registered configs by model type. Looking up one of our types imports its module first."""

    def __contains__(self, key: object) -> bool:
        if key in OURS and not super().__contains__(key):
            importlib.import_module(OURS[str(key)])
        return super().__contains__(key)


def _add_to_table(module: ModuleType) -> None:
    table = module.CONFIG_MAPPING
    if not isinstance(table._extra_content, _Registered):
        table._extra_content = _Registered(table._extra_content)


class _TableFinder(MetaPathFinder):
    """Finds the module of the table as the other finders do, and completes the table after its code has run."""

    def __init__(self) -> None:
        self._is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TABLE or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _CompletingLoader(spec.loader)
        return spec


class _CompletingLoader(Loader):
    """Runs the module of the table by its own loader, and adds our model types."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add_to_table(module)
