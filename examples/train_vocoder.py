"""Train a vocoder for a tokenizer's tokens, then decode with all layers and with some.

python examples/train_vocoder.py FOLDER_OF_SPEECH OUT [--model NAME] [--steps 300]

The sizes are those of a toy that a CPU trains in a minute: the words are not to be understood yet, the loudness and
the vowels' colour are. For a real one leave out `size` and train on a GPU: `audiotok train vocoder --help`.
Needs pip install 'audiotok[train]'.
"""

import argparse
from pathlib import Path

import audiotok
from audiotok.ssl.vocoder_files import load_vocoder
from audiotok.train import VocoderTraining, train_vocoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--model", default=audiotok.DEFAULT)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    tokenizer = audiotok.load(args.model)
    training = VocoderTraining(
        steps=args.steps,
        size="tiny",
        embedding="centroids",
        batch_size=4,
        segment_seconds=0.32,
        learning_rate=1e-3,
        adversarial_from=args.steps // 2,  # first the spectrum, then the discriminators
        save_every=100,
        log_every=10,
    )
    report = train_vocoder(tokenizer, args.folder, args.out, training=training, device="cpu")
    print(f"log-mel difference on held-out segments: {report.mel_before:.2f} before, {report.mel_after:.2f} after")
    for layers, value in report.mel_by_layers.items():
        print(f"  layers {layers}: {value:.2f}")

    vocoder = load_vocoder(args.out)
    path = audiotok.audio.find_audio(args.folder)[0]
    codes = tokenizer.encode_file(path)
    for count in (len(vocoder.layers), 1):
        wav = vocoder.decode(codes.tokens[:, :count], layers=vocoder.layers[:count], lengths=codes.lengths)
        target = Path(args.out, f"{path.stem}-{count}-layers.wav")
        audiotok.audio.save(target, wav[0, :, : int(codes.num_samples[0])], tokenizer.spec.sample_rate)
        print(f"{count} of {len(vocoder.layers)} layers: {target}")


if __name__ == "__main__":
    main()
