"""One trial, tracked, from its claim to its outcome."""
