"""Export: a trained model in another program's format, checked against the model on photographs."""
