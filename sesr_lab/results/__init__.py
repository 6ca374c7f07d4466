"""What comes out of trained networks: scores, pictures, files for other machines, and reports."""
