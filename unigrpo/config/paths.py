"""Types of the settings that are paths. They determine how a relative path is made absolute before a job starts."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any


class PathKind(Enum):
    """What a path names."""

    INPUT = "a file or folder that exists, or else a name on the Hub"
    INPUTS = "several inputs, separated by commas"
    OUTPUT = "a path to write to"
    FILE = "a file, which need not exist when the config is read"
    SOURCES = "patterns of files, separated by commas, or a name on the Hub"
    FUNCTION = "path/to/file.py:name"
    OPTIONS = "options of a reward, some of which may be inputs"


InputPath = Annotated[str, PathKind.INPUT]
InputPaths = Annotated[str, PathKind.INPUTS]
OutputPath = Annotated[str, PathKind.OUTPUT]
FilePath = Annotated[str, PathKind.FILE]
SourcePaths = Annotated[str, PathKind.SOURCES]
FunctionPath = Annotated[str, PathKind.FUNCTION]
OptionPaths = Annotated[dict[str, Any], PathKind.OPTIONS]
