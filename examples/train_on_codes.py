"""Train on tokens from the disk: a small language model predicts each frame's tokens from the frames before it.

audiotok tokenize FOLDER_OF_AUDIO --out TOKENS
python examples/train_on_codes.py TOKENS [--epochs 2] [--max-frames 4000]
"""

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from audiotok import Spec, open_codes
from audiotok.dataset import CodesBatch, Collate, LengthBatchSampler


class NextFrame(nn.Module):
    """Tokens of frame f + 1 from those of frames 0 to f, each codebook by a head of its own."""

    def __init__(self, spec: Spec, width: int = 128) -> None:
        super().__init__()
        # One entry more than there are tokens: the pad id, which is never predicted.
        self.embeddings = nn.ModuleList(nn.Embedding(max(spec.codebook_sizes) + 1, width) for _ in spec.codebook_sizes)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in spec.codebook_sizes)

    def forward(self, batch: CodesBatch) -> Tensor:
        """Cross entropy in nats per token, padding left out."""
        before, after = batch.tokens[:, :, :-1], batch.tokens[:, :, 1:]  # [B, K, F - 1]
        embedded = torch.stack([embed(before[:, k]) for k, embed in enumerate(self.embeddings)]).sum(0)
        hidden, _ = self.recurrent(embedded)  # [B, F - 1, width]
        valid = batch.mask[:, 1:]
        losses = [
            nn.functional.cross_entropy(head(hidden[valid]), after[:, k][valid]) for k, head in enumerate(self.heads)
        ]
        return torch.stack(losses).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", help="folder that `audiotok tokenize` wrote")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-frames", type=int, default=4000, help="frames in a batch, padding included")
    parser.add_argument("--num-workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    dataset = open_codes(args.tokens)
    sampler = LengthBatchSampler(dataset.lengths, args.max_frames)
    collate = Collate(dataset.spec)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=args.num_workers)
    model = NextFrame(dataset.spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    print(
        f"{len(dataset)} items of {dataset.spec.name}, {dataset.lengths.sum()} frames, {len(sampler)} batches an epoch"
    )
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        total = frames = 0.0
        for batch in loader:
            loss = model(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, frames = total + loss.item() * int(batch.lengths.sum()), frames + int(batch.lengths.sum())
        print(f"epoch {epoch}  loss {total / frames:.3f}")


if __name__ == "__main__":
    main()
