"""From files to patches on the device."""
