"""What a person types and sees: commands, tables, progress."""
