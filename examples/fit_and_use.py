"""Fit a k-means tokenizer on your own audio, save it, load it, and listen to what it keeps.

python examples/fit_and_use.py FOLDER_OF_AUDIO OUT_FOLDER
"""

import argparse
from pathlib import Path

import audiotok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--k", type=int, default=256)
    args = parser.parse_args()

    fitted = audiotok.fit_kmeans(args.folder, k=args.k, num_codebooks=4)
    print(audiotok.FitReport(**fitted.provenance["fit"]).table())
    fitted.save(args.out / "tokenizer")

    tok = audiotok.load(args.out / "tokenizer")
    path = audiotok.audio.find_audio(args.folder)[0]
    codes = tok.encode_file(path)
    print(f"{path.name}: tokens {list(codes.tokens.shape)}, {tok.spec.bitrate_bps / 1000:g} kbit/s")
    for count in (1, 4):
        wav = tok.decode(codes.truncate(count))
        audiotok.audio.save(args.out / f"{count}-codebooks.wav", wav[0], tok.spec.sample_rate)
    print(f"listen: {args.out}/1-codebooks.wav and {args.out}/4-codebooks.wav")


if __name__ == "__main__":
    main()
