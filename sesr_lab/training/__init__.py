"""How a network is trained; needs torch and numpy alone."""
