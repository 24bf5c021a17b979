"""How good a tokenizer is: of its reconstructions, its codes and its cost."""
