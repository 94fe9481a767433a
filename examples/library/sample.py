"""Samples an answer and an image, and prints the order in which the tokens of the answer were fixed.

Run it in the folder of the project: python examples/library/sample.py [MODEL] [OUTPUT.png]
"""

import sys

import unigrpo

model = sys.argv[1] if len(sys.argv) > 1 else "examples/tiny/mixcot"
output = sys.argv[2] if len(sys.argv) > 2 else "out/sample.png"

policy = unigrpo.Policy.from_pretrained(model)
answer = policy.sample("70+5+4=")[0]  # the settings are those of the run that trained the model, policy.sampling
print("answer:", answer.text)
for step in range(int(answer.commit_step.max()) + 1):
    print(f"step {step}:", policy.tokenizer.batch_decode(answer.token_ids[answer.commit_step == step][:, None]))

image = unigrpo.ImageSamplingConfig(num_denoising_steps=12, guidance_scale=3.5)
drawing = policy.sample("a large red circle on the left", task="t2i", image=image)[0]
assert drawing.image is not None  # the image of a text is None
drawing.image.save(output)
print("image:", output)
