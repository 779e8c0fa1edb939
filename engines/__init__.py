"""What computes: MXNet, or PyTorch. One interface (`engines.interface`), NumPy in, NumPy out."""
