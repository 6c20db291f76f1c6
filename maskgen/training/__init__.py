"""Lightning modules, losses of the generator and callbacks."""
