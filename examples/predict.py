"""Which of some captions fits an image: OpenAI's first example.

python -m examples.predict image.png "a diagram" "a dog" "a cat"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import clip_model as clip
from examples.labelled import argument_parser, in_one_line, open_image


def main(arguments: list[str] | None = None) -> None:
    """Print the probability of each caption."""
    parser = argument_parser("predict", "Say which of some captions fits an image.")
    parser.add_argument("image", type=Path, help="an image file")
    parser.add_argument("captions", nargs="+", help="what it may show")
    options = parser.parse_args(arguments)
    with in_one_line(parser):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    model, preprocess = clip.load(options.model, device=options.device)
    image = preprocess(open_image(options.image)).unsqueeze(0).to(options.device)
    text = clip.tokenize(options.captions).to(options.device)

    with torch.no_grad():
        logits_per_image, _logits_per_text = model(image, text)
        probabilities = logits_per_image.softmax(dim=-1).cpu().numpy()

    for caption, probability in zip(options.captions, probabilities[0], strict=True):
        sys.stdout.write(f"{probability:8.2%}  {caption}\n")


if __name__ == "__main__":
    main()
