"""Training: seeds, device, optimizer, the loop, and when to stop."""
