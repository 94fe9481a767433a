"""UniGRPO's own form: keywords you name are lists of one length; return one number for each sample."""


def short_answers(*, completions, penalty=0.01):
    """1 for an empty answer, less for each character; `penalty` is an option of the config."""
    return [1.0 - penalty * len(text) for text in completions]


async def even_length(*, completions):
    """A coroutine works as well, for rewards that wait for others."""
    return [float(len(text) % 2 == 0) for text in completions]


def brightness(*, images):
    """The images are PIL images, or None for a sample without one; None as a value means: no reward, not 0."""
    return [None if image is None else image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255 for image in images]
