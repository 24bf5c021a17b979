"""Which layers of tokens does a task use? Trains a small classifier with attention over layers.

The class of a clip is the folder it lies in, or the part of its file name that --label matches:
    python examples/layer_attention.py FOLDER_WITH_ONE_FOLDER_PER_SPEAKER --plot weights.png
    python examples/layer_attention.py tests/data/audio --label 'speech_(..)_' --model ./my-ssl-tokenizer
With a residual tokenizer (the default one) its codebooks play the layers.
"""

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor, nn

import audiotok
from audiotok.ssl.attention import LayerAttention, mean_layer_weights, plot_layer_weights


class Classifier(nn.Module):
    """Attention over layers, mean over time, one linear layer. Begins from the tokenizer's centroids, kept as they
    are, which few data cannot overfit; or from random vectors of size `dim`, which are trained."""

    def __init__(self, tokenizer: audiotok.Tokenizer, num_classes: int, dim: int | None) -> None:
        super().__init__()
        sizes = tokenizer.spec.codebook_sizes
        centroids = tokenizer.codebooks if dim is None else None
        self.attention = LayerAttention(sizes, dim, centroids=centroids, trainable=dim is not None)
        self.head = nn.Linear(self.attention.table.shape[1], num_classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        features, weights = self.attention(tokens, mask=mask)  # [B, D, F], [B, K, F]
        pooled = features.sum(dim=2) / mask.sum(dim=1, keepdim=True)
        return self.head(pooled), weights


def labelled_files(folder: str, pattern: str | None) -> tuple[list[Path], list[str]]:
    files, names = [], []
    for path in audiotok.audio.find_audio(folder):
        found = re.search(pattern, path.name) if pattern else None
        if pattern is None or found:
            files.append(path)
            names.append(path.parent.name if found is None else found[1])
    return files, names


def pieces_of(tokenizer: audiotok.Tokenizer, files: list[Path], frames: int) -> tuple[list[Tensor], list[int]]:
    """Tokens [K, frames] of pieces of the files, and the file each comes from."""
    pieces, origin = [], []
    for number, path in enumerate(files):
        tokens = tokenizer.encode_file(path).tokens[0]
        for piece in tokens.split(frames, dim=1):
            if piece.shape[1] >= frames // 2:
                pieces.append(piece)
                origin.append(number)
    return pieces, origin


def batch_of(pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([piece.shape[1] for piece in pieces])
    rows = [piece.t() for piece in pieces]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)
    return tokens, torch.arange(tokens.shape[2]) < lengths[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default=audiotok.DEFAULT, help="tokenizer: name or folder")
    parser.add_argument("--label", metavar="REGEX", help="its first group, in the file name, is the class")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a piece")
    parser.add_argument("--dim", type=int, help="train vectors of this size instead of using the centroids")
    parser.add_argument("--plot", metavar="FILE", help="picture of the mean weights")
    args = parser.parse_args()
    torch.manual_seed(0)

    tokenizer = audiotok.load(args.model)
    files, names = labelled_files(args.folder, args.label)
    classes = sorted(set(names))
    if len(classes) < 2:
        raise SystemExit(f"found {len(files)} files of {len(classes)} classes: two or more classes are needed")
    pieces, origin = pieces_of(tokenizer, files, round(args.seconds * tokenizer.spec.frame_rate))
    labels = torch.tensor([classes.index(names[number]) for number in origin])
    order = torch.randperm(len(pieces))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    print(f"{len(files)} files, {len(pieces)} pieces, {len(classes)} classes, {tokenizer.spec.num_codebooks} layers")

    model = Classifier(tokenizer, len(classes), args.dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(args.steps):
        chosen = rest[torch.randint(0, len(rest), (32,))]
        logits, _ = model(*batch_of([pieces[i] for i in chosen]))
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")

    with torch.no_grad():
        tokens, mask = batch_of([pieces[i] for i in held])
        logits, weights = model(tokens, mask)
    accuracy = (logits.argmax(dim=1) == labels[held]).float().mean().item()
    guess = labels[held].bincount().max().item() / len(held)
    print(f"accuracy on held-out pieces {accuracy:.2f} (always the commonest class: {guess:.2f})")
    for layer, weight in zip(model.attention.layers, mean_layer_weights(weights, mask).tolist(), strict=True):
        print(f"layer {layer:2d}  mean weight {weight:.3f}")
    if args.plot:
        plot_layer_weights(weights, args.plot, mask=mask, layers=model.attention.layers)


if __name__ == "__main__":
    main()
