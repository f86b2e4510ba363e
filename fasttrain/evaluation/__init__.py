"""How good a model is: metrics accumulated on the device, and the predictions they come from."""
