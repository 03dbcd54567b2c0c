"""What is true of the computer: devices, processes, signals."""
