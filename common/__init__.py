"""What every room may use: errors, files, params files, locks, progress, interruption."""
