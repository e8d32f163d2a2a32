"""Text: tokenizer, chat template, thinking, tails. Torch-free; imports only core."""
