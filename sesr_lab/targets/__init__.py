"""What a network becomes on the device that it is for: its int8 form, and the milliseconds that it takes there."""
