"""Use a frozen tokenizer inside a training loop: predict the next frame's first token from this one's.

python examples/training_loop.py FOLDER_OF_AUDIO [--steps 50]
"""

import argparse

import torch
from torch import nn

import audiotok


class NextToken(nn.Module):
    """A tiny language model that owns its tokenizer: audio in, loss out."""

    def __init__(self, tokenizer: audiotok.Tokenizer, width: int = 64) -> None:
        super().__init__()
        self.tokenizer = tokenizer  # frozen: .train() and the optimizer leave it as it is
        size = tokenizer.spec.codebook_sizes[0]
        self.embedding = nn.Embedding(size, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, size)

    def forward(self, wavs: list[torch.Tensor]) -> torch.Tensor:
        codes = self.tokenizer.encode(wavs)  # ragged in, padded tokens [B, K, F] and lengths out
        first = codes.tokens[:, 0]
        hidden, _ = self.recurrent(self.embedding(first[:, :-1]))
        losses = nn.functional.cross_entropy(self.head(hidden).transpose(1, 2), first[:, 1:], reduction="none")
        valid = codes.mask[:, 1:]
        return (losses * valid).sum() / valid.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = audiotok.load()
    files = audiotok.audio.find_audio(args.folder)[:4]
    wavs = [audiotok.audio.load(path, sample_rate=tokenizer.spec.sample_rate, channels=1)[0] for path in files]
    model = NextToken(tokenizer).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    for step in range(args.steps):
        loss = model(wavs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
