"""The computer: devices, processes, signals, threads."""
