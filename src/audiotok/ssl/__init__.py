"""Features of speech and the tokenizers over them."""
