"""What the user asks for: one trial's settings, and a study of many."""
