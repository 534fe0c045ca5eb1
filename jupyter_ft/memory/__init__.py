"""Will it fit: the shape of a model, the parts of a step, and what to change. Arithmetic alone; no torch here."""
