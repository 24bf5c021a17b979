"""Fit a k-means tokenizer on your own audio, save it, load it, and listen to what it keeps.

    python examples/fit_and_use.py FOLDER_OF_AUDIO OUT_FOLDER
    python examples/fit_and_use.py FOLDER_OF_AUDIO OUT_FOLDER --features microsoft/wavlm-large --layers 7 18 --k 1000
    python examples/fit_and_use.py FOLDER_OF_AUDIO OUT_FOLDER --features dac-44khz --k 1024

Stopped, in whatever way, it goes on when it is started again. OUT_FOLDER/tokenizer/report.md says what came of it.
Tokens of an SSL model have no way back to sound until a vocoder is trained on them: examples/train_vocoder.py.
"""

import argparse
from pathlib import Path

import audiotok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--features", default="logmel", help="logmel, an SSL model (./folder or user/repo), or a codec")
    parser.add_argument("--layers", type=int, nargs="+", help="of the SSL model")
    args = parser.parse_args()

    fitted = audiotok.fit_kmeans(
        args.folder,
        features=args.features,
        layers=args.layers,
        k=args.k,
        num_codebooks=1 if args.layers else 4,
        out_dir=args.out / "tokenizer",
    )
    print(audiotok.FitReport(**fitted.provenance["fit"]).table())

    tok = audiotok.load(args.out / "tokenizer")
    path = audiotok.audio.find_audio(args.folder)[0]
    codes = tok.encode_file(path)
    print(f"{path.name}: tokens {list(codes.tokens.shape)}, {tok.spec.bitrate_bps / 1000:g} kbit/s")
    for count in (1, 4) if tok.spec.decodable else ():
        wav = tok.decode(codes.truncate(count))
        audiotok.audio.save(args.out / f"{count}-codebooks.wav", wav[0], tok.spec.sample_rate)
        print(f"listen: {args.out}/{count}-codebooks.wav")


if __name__ == "__main__":
    main()
