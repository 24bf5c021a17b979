"""audiotok: audio to discrete tokens and back, with one interface over many tokenizers."""
