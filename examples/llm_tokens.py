"""Tokens of audio as a language model reads them, and back: delay pattern, shorter units, tokens of a text model.

    python examples/llm_tokens.py FOLDER_OF_AUDIO
    python examples/llm_tokens.py FOLDER_OF_AUDIO --tokenizer ./my-tokenizer --save OUT_FOLDER

Runs offline. Every step goes there and back, and stops where anything is not exactly what it was.
"""

import argparse
from pathlib import Path

import tokenizers
import torch

import audiotok
from audiotok import Codes, lm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", default=audiotok.DEFAULT, help="audio tokenizer: name or folder")
    parser.add_argument("--merges", type=int, default=500, help="of the BPE")
    parser.add_argument("--save", type=Path, metavar="OUT_FOLDER", help="keep the BPE and the extended tokenizer")
    args = parser.parse_args()

    tok = audiotok.load(args.tokenizer)
    codes = Codes.batch([tok.encode_file(path) for path in audiotok.audio.find_audio(args.folder)])
    seconds = codes.num_samples.sum().item() / tok.spec.sample_rate
    print(
        f"{len(codes)} files, {seconds:.1f} s: {tok.spec.num_codebooks} codebooks at {tok.spec.frame_rate:g} frames/s"
    )

    delay(tok, codes)
    bpe = shorter(codes, args.merges, seconds)
    text_tokenizer = text_model(tok, codes)
    if args.save:
        bpe.save(args.save / "bpe")
        text_tokenizer.save(str(args.save / "tokenizer.json"))
        print(f"saved in {args.save}")


def delay(tok: audiotok.Tokenizer, codes: Codes) -> None:
    """A grid of ids with a row for each codebook, as MusicGen predicts it."""
    layout = lm.Layout("delay", tok.spec, fingerprint=tok.fingerprint)
    ids = layout.to_ids(codes)
    batch = layout.batch(ids)
    print(f"\ndelay: batch of ids {list(batch.ids.shape)}, {layout.vocabulary.special['pad']} fills; it begins")
    for row in ids[0][:, :10].tolist():
        print("   ", *(f"{number:5d}" for number in row))
    back = layout.from_ids(batch, num_samples=codes.num_samples)
    check(back, codes)
    if tok.spec.decodable:
        assert torch.equal(tok.decode(back[0]), tok.decode(codes[0]))
    print("back to the same codes and the same audio")


def shorter(codes: Codes, merges: int, seconds: float) -> lm.AcousticBPE:
    """Units of the first codebook: each once for the time it lasts, then common runs of them as one."""
    first = codes.truncate(1) if codes.spec.num_codebooks > 1 else codes
    units, durations = lm.deduplicate(first)
    bpe = lm.train_bpe(units, first.spec.vocab_size + merges)
    ids = bpe.encode(units)
    counts = {
        "frames": int(first.lengths.sum()),
        "deduplicated": int(units.lengths.sum()),
        f"and BPE of {bpe.vocab_size}": sum(len(row) for row in ids),
    }
    print()
    for name, count in counts.items():
        print(f"{name:16s} {count:7d} ids, {count / seconds:5.1f} per second")
    longest = max((bpe.decode([[number]]).tokens[0, 0].tolist() for number in range(bpe.vocab_size)), key=len)
    print(f"the longest merge is {len(longest)} units: {longest}")
    check(lm.expand(bpe.decode(ids, num_samples=units.num_samples), durations), first)
    print("back to the same codes")
    return bpe


def text_model(tok: audiotok.Tokenizer, codes: Codes) -> tokenizers.Tokenizer:
    """Audio and words in one sequence, through the tokenizer of a text model."""
    tokenizer = small_text_tokenizer()
    before = tokenizer.get_vocab_size()
    vocabulary = lm.extend_tokenizer(tokenizer, tok.spec.codebook_sizes, existing={"eos": "<|end|>"})
    print(f"\ntext tokenizer: {before} ids before, {vocabulary.size} with audio, special {vocabulary.special}")
    layout = lm.Layout("flat", tok.spec, vocabulary, prefix=("audio_start",), suffix=("audio_end",))
    rows = []
    for ids in layout.to_ids(codes):
        text = f"What is said here? {lm.to_text(ids, vocabulary)} Something.<|end|>"
        read = tokenizer.encode(text).ids
        assert tokenizer.decode(read, skip_special_tokens=False) == text
        start, end = (read.index(vocabulary.special[name]) for name in ("audio_start", "audio_end"))
        rows.append(read[start : end + 1])
    print(f"{text[:64]} ... {text[-40:]}")
    print(f"{len(text)} characters are {len(read)} ids, {len(rows[-1])} of them audio")
    check(layout.from_ids(rows, num_samples=codes.num_samples), codes)
    print("back to the same codes")
    return tokenizer


def small_text_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE like those of GPT-2, Llama 3 and Qwen, of a few sentences."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is said here? Something is said in this audio."], trainer)
    return tokenizer


def check(found: Codes, wanted: Codes) -> None:
    assert torch.equal(found.lengths, wanted.lengths)
    assert torch.equal(found.num_samples, wanted.num_samples)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.tokens, other.tokens)


if __name__ == "__main__":
    main()
