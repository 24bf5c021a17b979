"""The audio of a codec's training: what it draws from, and what it is validated on."""

from typing import Any

from ..codec import CodecConfig
from ..sources import open_source
from .codec_training import CodecTraining
from .crops import Crops
from .labels import Labels, classes_of
from .pool import Pool, hold_out, spread
from .validation import Validation


class CodecData:
    """Sources of a training; nothing is read before `read`.

    Args:
        source: of the training, for `open_source`.
        valid: of the validation; None holds out a few items.

    Attributes:
        identity: of the sources, plain values: it changes when items do. None is that of items held out.
        crops: that are trained on.
        validation: what is measured.
        labels: of the crops, for hooks; None where there are none.
        num_classes: of each label that has classes.
        num_items: of the training's source; num_held_out: not trained on.
    """

    crops: Crops
    validation: Validation
    labels: Labels | None

    def __init__(self, source: Any, valid: Any) -> None:
        self.source = open_source(source)
        self.valid = None if valid is None else open_source(valid)
        self.identity = {
            "audio": self.source.identity(),
            "validation": None if self.valid is None else self.valid.identity(),
        }
        self.num_items = self.num_held_out = 0
        self.num_classes: dict[str, int] = {}
        self._failed: list[str] = []

    def read(
        self, config: CodecConfig, training: CodecTraining, *, memory_bytes: int, num_workers: int, progress: bool
    ) -> None:
        """Decodes what fits into memory.

        Raises:
            FitError: no audio that can be used. InputError: domains or labels that no item has.
        """
        items, rate, column = list(self.source.items()), config.sample_rate, training.domain_column
        drawn = [item for item in items if training.domains is None or item.columns.get(column) in training.domains]
        classes = classes_of(drawn or items, [hook.label for hook in training.hooks])
        self.num_classes = {label: len(values) for label, values in classes.items()}
        pool = Pool(
            self.source, items, sample_rate=rate, memory_bytes=memory_bytes, num_workers=num_workers, progress=progress
        )
        held_out = hold_out(pool.items, training.seed) if self.valid is None else list(self.valid.items())
        self.num_items, self.num_held_out = len(items), len(held_out)
        frame = config.hop_length * config.quantizer.stride
        self.crops = Crops(
            pool,
            samples=frame * max(1, round(training.segment_seconds * rate / frame)),
            seed=training.seed,
            weights=training.domains,
            column=column,
            padding=training.padding,
            augmentation=training.augmentation,
            held_out={item.id for item in held_out} if self.valid is None else (),
        )
        self.labels = None
        if training.hooks:
            self.labels = Labels(pool.items, classes, sample_rate=rate, frame_rate=rate / config.hop_length)
        measurable = held_out if held_out or self.valid is not None else pool.items
        chosen = spread(measurable, training.validation_items, training.seed, column=column)
        measured = Pool(self.source if self.valid is None else self.valid, chosen, sample_rate=rate)
        self.validation = Validation(measured, seconds=training.validation_seconds, column=column)
        self._failed = [] if self.valid is None else measured.failed

    @property
    def failed(self) -> list[str]:
        """Items that could not be used, and why, so far."""
        return [*self.crops.pool.failed, *self._failed]
