"""Hides secrets by the names of their settings, and within URLs, in files of a run, in messages and in the log."""

from __future__ import annotations

import logging
import re
from typing import Any

HIDDEN = "(hidden)"
"""Text that replaces a secret."""
SECRET_NAME = re.compile(
    r"(.*_)?(api_?keys?|passwords?|passwd|pwd|passphrase|secrets?|credentials?|authorization|auth|bearer|cookies?|token"
    r"|signature)"
    r"|(.*_)?(access|secret|private|subscription)_key|key|sig"
)
"""Names of settings, headers and query parameters that hold secrets, with underscores in place of dashes."""
WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""Where a word begins in a name such as `accessToken`."""
SPECIAL_TOKEN = re.compile(r"[<\[].*[>\]]")
"""Value of a setting such as ``mask_token``, which is no secret."""
USER_OF_URL = re.compile(r"(\b[a-zA-Z][\w+.-]*:/{1,2})[^/\s@]+@")
"""Pattern of a URL; in a path that was made of a URL, one of the two slashes is missing."""
QUERY_OF_URL = re.compile(r"([?&;])([\w.-]+)=([^&;#\s,]+)")
KNOWN_TOKEN = re.compile(r"\b(sk-|hf_|ghp_|github_pat_|glpat-|xox[abprs]-|AKIA)(?=[\w-]*\d)[\w-]{16,}")
"""Tokens of OpenAI, Hugging Face, GitHub, GitLab, Slack and AWS, which show by their beginning what they are."""
SCHEME_OF_HEADER = re.compile(r"\b(Bearer|Basic)\s+\S+")


def without_secrets(value: Any) -> Any:
    """Returns a value of a config with secrets replaced, found by the names of settings and within URLs."""
    if isinstance(value, dict):
        return {k: HIDDEN if _is_secret(str(k), v) else _without_secret_headers(str(k), v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(v) for v in value]
    return _without_url_secrets(value) if isinstance(value, str) else value


def _without_secret_headers(name: str, value: Any) -> Any:
    """Hides all HTTP headers except those that only describe the content."""
    if name.lower() != "headers" or not isinstance(value, dict):
        return without_secrets(value)
    return {k: v if str(k).lower() in ("accept", "content-type", "user-agent") else HIDDEN for k, v in value.items()}


def _is_secret(name: str, value: Any) -> bool:
    if value is None or value == "" or isinstance(value, bool):
        return False
    if name.lower().endswith("token") and (isinstance(value, int) or SPECIAL_TOKEN.fullmatch(str(value))):
        return False
    return _is_secret_name(name)


def _is_secret_name(name: str) -> bool:
    return SECRET_NAME.fullmatch(WORD_START.sub("_", name).lower().replace("-", "_")) is not None


def _without_url_secrets(text: str) -> str:
    def parameter(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}={HIDDEN}" if _is_secret_name(match[2]) else match[0]

    text = KNOWN_TOKEN.sub(HIDDEN, SCHEME_OF_HEADER.sub(rf"\1 {HIDDEN}", text))
    return QUERY_OF_URL.sub(parameter, USER_OF_URL.sub(rf"\1{HIDDEN}@", text)) if ":/" in text else text


class SecretFilter(logging.Filter):
    """Hides secrets in the lines of a log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the message of a record, and lets every record pass."""
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True
