"""Export: write a trained model in another program's format, and compare the file with the model on photographs."""
