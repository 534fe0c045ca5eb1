"""Talking to the weights while they are trained: a twin of the model, and the thread that speaks with it."""
