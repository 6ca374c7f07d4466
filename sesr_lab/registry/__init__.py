"""Published networks: written, found, loaded."""
