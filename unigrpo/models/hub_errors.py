"""One-line explanations of errors of the Hub, and what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal

from httpx import HTTPError, TransportError
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

Kind = Literal["model", "dataset"]
LOG_IN = "log in (`hf auth login`, or HF_TOKEN)"
NOT_WRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK,
)  # fmt: skip
"""Errors of a cache that is full or cannot be written."""


def download_problem(error: BaseException, name: str, kind: Kind = "model") -> str:
    """Returns why a repository could not be downloaded, and what to do.

    This function asks the Hub again whether the repository may be read, because the libraries that download files
    replace its answer with their own errors.

    Args:
        error: What a library raised.
        name: ``owner/name``.
        kind: Kind of the repository.
    """
    if _of_the_cache(error) or not any(isinstance(part, (OSError, HTTPError)) for part in _chain(error)):
        return hub_problem(error, name, kind) or _line(error)
    try:
        HfApi().auth_check(name, repo_type=kind)
    except (OSError, ValueError, HTTPError) as refused:
        said = hub_problem(refused, name, kind)
        if said:
            return said
    if any(isinstance(part, TransportError) for part in _chain(error)):
        return f"the download broke off ({_line(error)}); start the same command again, which keeps the whole files"
    return hub_problem(error, name, kind) or _line(error)


def hub_problem(error: BaseException, name: str, kind: Kind = "model") -> str:
    """Returns what an answer of the Hub means, and what to do; empty if the answer is unknown.

    Args:
        error: What `huggingface_hub` raised.
        name: ``owner/name``.
        kind: Kind of the repository.
    """
    full = _of_the_cache(error)
    if full is not None:
        return cache_problem(full, kind)
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"HF_HUB_OFFLINE is set, and {constants.HF_HOME} (HF_HOME) has no whole copy; unset it, or "
            f"{_copied(name, kind)}"
        )
    if isinstance(error, HfHubHTTPError):
        return _answer(error, name, kind)
    if isinstance(error, TransportError):
        return (
            f"the Hub cannot be reached ({constants.ENDPOINT}: {_line(error)}); look at the network, its proxy "
            f"(HTTPS_PROXY) and HF_ENDPOINT, or {_copied(name, kind)}"
        )
    return ""


def cache_problem(error: OSError, kind: Kind) -> str:
    """Returns what to do about a cache that is full or cannot be written.

    Args:
        error: One of the errors of :data:`NOT_WRITABLE`.
        kind: Kind of file that was to be written.
    """
    alone = ", or HF_DATASETS_CACHE for data sets alone," * (kind == "dataset")
    return (
        f"the cache of the Hub cannot be written ({error.strerror}: {error.filename or constants.HF_HOME}); free some "
        f"space, or set HF_HOME{alone} to a folder that can be written"
    )


def _answer(error: HfHubHTTPError, name: str, kind: Kind) -> str:
    status, page = error.response.status_code, f"{constants.ENDPOINT}/{'datasets/' * (kind == 'dataset')}{name}"
    if isinstance(error, GatedRepoError):
        account = "with the account of your token" if get_token() else f"and {LOG_IN}"
        return f"the repository is gated; accept its terms at {page} {account}"
    if status == 401 and get_token():
        return f"the Hub does not accept your token; make one at {constants.ENDPOINT}/settings/tokens and {LOG_IN}"
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        account = "use a token that may read it" if get_token() else LOG_IN
        return f"the Hub has no such {kind}, or it is private; look at the name ({page}), or {account}"
    if status == 403:
        return f"your token may not do this ({_line(error)}); give it the permission, or {LOG_IN} of another account"
    if status == 429 or status >= 500:
        return f"the Hub has too much to do or a fault ({status}: {_line(error)}); try again later"
    return ""


def _copied(name: str, kind: Kind) -> str:
    option = "--repo-type dataset " * (kind == "dataset")
    return (
        f"copy it where there is a network (`hf download {option}{name} --local-dir FOLDER`) and give FOLDER in place "
        "of the name"
    )


def _of_the_cache(error: BaseException) -> OSError | None:
    """Returns the error of the file system behind an error, if the cache could not be written."""
    return next((e for e in _chain(error) if isinstance(e, OSError) and e.errno in NOT_WRITABLE), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # errors that were raised again may lead to themselves
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """Returns the type and text of an error on one line, without addresses of help pages."""
    text = " ".join(str(error).split("\nFor more information", 1)[0].split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
