"""Checks that the images of prompts can be read. Images that a run has read before are not decoded again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from huggingface_hub import constants

from unigrpo.data.embedded_images import EMBEDDED, embedded_bytes
from unigrpo.data.images import FORMATS, MAX_PIXELS, MAX_RATIO, read_image

logger = logging.getLogger(__name__)

NUM_TIMED_IMAGES = 64
"""Number of images that are decoded first to estimate the time for all."""
NOTABLE_SECONDS = 10.0
"""Smallest estimated duration that the log announces, in seconds."""
MIN_KEPT = 1000
"""Smallest number of newly decoded images that are added to the file of known images."""
RULES = f"Pillow {PIL.__version__}, {FORMATS}, {MAX_PIXELS}, {MAX_RATIO}"
"""Version of Pillow, formats and limits, on which it depends whether an image can be read."""


def known_images_file() -> Path:
    """Returns the file that names the images that were read before, in the cache of the Hugging Face Hub
    (``HF_HOME``)."""
    return Path(constants.HF_ASSETS_CACHE) / "unigrpo" / "checks" / "default" / "known_images.txt"


def unreadable_images(images: Sequence[str]) -> dict[str, str]:
    """Returns the images that cannot be read, with the reason of each. Several are decoded at the same time.

    Args:
        images: Different paths of files, or names of images in tables (:mod:`unigrpo.data.embedded_images`).
    """
    if not images:
        return {}
    file = known_images_file()
    known = _known(file)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding does not hold Python's lock
        digests = dict(zip(images, pool.map(_digest, images), strict=True))
        new = [image for image, digest in digests.items() if digest not in known]
        if len(new) < len(images):
            logger.info("%d of %d images of prompts were read before (%s)", len(images) - len(new), len(images), file)
        started, few = time.monotonic(), min(len(new), NUM_TIMED_IMAGES)
        messages = list(pool.map(_problem, new[:few]))
        seconds = (time.monotonic() - started) / max(few, 1) * len(new)
        if seconds > NOTABLE_SECONDS:
            logger.info("decoding %d images of prompts takes about %.0f s, once", len(new), seconds)
        messages += pool.map(_problem, new[few:])
    problems = {image: message for image, message in zip(new, messages, strict=True) if message}
    if len(new) >= MIN_KEPT:
        _keep(file, [digests[image] for image in new if image not in problems and digests[image]])
    return problems


def _digest(image: str) -> str:
    """Returns a digest of the version of an image; empty if the image does not exist.

    It covers path, size and time of the last change of a file, or the bytes of an image in a table.
    """
    try:
        if image.startswith(EMBEDDED):
            version = embedded_bytes(image)
        else:
            found = os.stat(image)
            version = f"{os.path.abspath(image)} {found.st_size} {found.st_mtime_ns}".encode()
    except (OSError, ValueError):
        return ""
    return hashlib.blake2b(RULES.encode() + version, digest_size=16).hexdigest()


def _known(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read, so that all images of prompts are decoded again: %s", file, error)
        return set()


def _keep(file: Path, digests: Sequence[str]) -> None:
    """Adds images to the file of known ones, in one write, so that runs that start at the same time do not mix."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as opened:
            opened.write(("\n" + "\n".join(digests) + "\n").encode())
    except OSError as error:
        logger.warning("%s cannot be written, so that the next start decodes the images again: %s", file, error)


def _problem(image: str) -> str:
    """Returns the reason why an image cannot be read; empty if it can be read."""
    try:
        read_image(image)
    except ValueError as error:
        return str(error)
    return ""
