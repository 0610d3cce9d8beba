"""From a trained network to a bundle that runs without the code that trained it."""
