"""The computer: devices, processes, signals."""
