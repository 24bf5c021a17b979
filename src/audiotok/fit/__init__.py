"""Fit k-means tokenizers on a user's own audio: features, a sample of their frames, k-means, a tokenizer."""

from .checkpoint import FOLDER
from .engines import ITERATIONS
from .fitting import ROWS_PER_CENTROID, fit_kmeans, fit_several
from .report import FitReport

__all__ = ["FOLDER", "ITERATIONS", "ROWS_PER_CENTROID", "FitReport", "fit_kmeans", "fit_several"]
