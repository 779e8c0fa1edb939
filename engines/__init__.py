"""What computes: MXNet through Gluon. One interface (`engines.interface`), NumPy in, NumPy out."""
