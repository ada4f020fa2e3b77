"""What is read from a loaded model: likelihoods of rows, and free answers."""
