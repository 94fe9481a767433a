"""Reward functions in UniGRPO's convention: the keyword arguments are lists with one item per sample, as is the
result."""


def short_answers(*, completions, penalty=0.01):
    """Returns 1 for an empty answer and less for each character; `penalty` is an option in the config."""
    return [1.0 - penalty * len(text) for text in completions]


async def even_length(*, completions):
    """Waits for another service; a reward may be a coroutine."""
    return [float(len(text) % 2 == 0) for text in completions]


def brightness(*, images):
    """Scores PIL images. A sample without an image gets None, which means that its reward is missing."""
    return [None if image is None else image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255 for image in images]
