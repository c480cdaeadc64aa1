"""Trackers that a run's events go to: TensorBoard, MLflow, Weights & Biases."""
