"""What comes out of trained networks: scores."""
