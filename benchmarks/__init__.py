"""What tileferry is measured with, and the pictures that its tests and samples are made of."""
